#include "moments.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "picture.h"

namespace fastload {
namespace {

constexpr int exact_samples = 4096;  // of a row: sums of so many products fit into 32 bits

// The loops are simple so that compilers vectorize them. All samples are centered: minus 128.
void center(const uint8_t* samples, int count, int16_t* out) {
    for (int x = 0; x < count; ++x) out[x] = int16_t(samples[x] - 128);
}

// Adds a row to `sum`, and returns the sum of its squares.
int64_t add_row(const uint8_t* samples, int count, int16_t* sum) {
    int32_t squares = 0;  // up to max_side samples fit
    for (int x = 0; x < count; ++x) {
        const auto value = int16_t(samples[x] - 128);
        sum[x] = int16_t(sum[x] + value);
        squares += value * value;
    }
    return squares;
}

void add_neighbors(const int16_t* row, int count, int16_t* out) {
    for (int x = 0; x < count; ++x) out[x] = int16_t(row[2 * x] + row[2 * x + 1]);
}

int64_t total(const int16_t* row, int count) {
    int32_t sum = 0;
    for (int x = 0; x < count; ++x) sum += row[x];
    return sum;
}

int64_t product(const int16_t* a, const int16_t* b, int count) {
    int64_t sum = 0;
    for (int first = 0; first < count; first += exact_samples) {
        const int end = std::min(first + exact_samples, count);
        int32_t part = 0;
        for (int x = first; x < end; ++x) part += a[x] * b[x];
        sum += part;
    }
    return sum;
}

// Sums over all pixels of the samples, and of their products in pairs.
struct Sums {
    int64_t sample[3] = {}, product[3][3] = {};
};

class Adder {
public:
    explicit Adder(const Planes& planes)
        : planes_(planes), dx_(chroma_divisor_x[planes.subsampling]), dy_(chroma_divisor_y[planes.subsampling]),
          block_(size_t(planes.width) + size_t(dx_)), halved_(block_.size()),
          chroma_{std::vector<int16_t>(size_t(planes.width)), std::vector<int16_t>(size_t(planes.width))} {}

    Sums sums() {
        for (int y = 0; y < planes_.height; y += dy_) {
            const int rows = std::min(dy_, planes_.height - y);
            std::fill(block_.begin(), block_.end(), int16_t{0});
            const Plane& luma = planes_.plane[0];
            for (int k = 0; k < rows; ++k)
                sums_.product[0][0] += add_row(luma.data + (y + k) * luma.stride, luma.width, block_.data());
            sums_.sample[0] += total(block_.data(), luma.width);
            if (planes_.count == 3) add_chroma(y / dy_, rows);
        }
        return sums_;
    }

private:
    // A row of chroma, whose samples cover `rows` rows of pixels.
    void add_chroma(int y, int rows) {
        const int width = planes_.plane[1].width, last = width - 1;
        for (int k = dx_; k > 1; k /= 2) {
            add_neighbors(block_.data(), width * k / 2, halved_.data());
            block_.swap(halved_);
        }
        const int64_t covered = planes_.width - last * dx_;  // columns of pixels under the last sample
        for (int c = 1; c < 3; ++c) {
            const Plane& plane = planes_.plane[c];
            const int16_t* const row = chroma_[c - 1].data();
            center(plane.data + y * plane.stride, width, chroma_[c - 1].data());
            sums_.sample[c] += rows * (dx_ * total(row, last) + covered * row[last]);
            sums_.product[0][c] += product(block_.data(), row, width);
            for (int d = 1; d <= c; ++d) {
                const int16_t* const other = chroma_[d - 1].data();
                sums_.product[d][c] += rows * (dx_ * product(row, other, last) + covered * row[last] * other[last]);
            }
        }
    }

    const Planes& planes_;
    const int dx_, dy_;
    std::vector<int16_t> block_, halved_;  // block_: sums of luma over the pixels of each chroma sample
    std::vector<int16_t> chroma_[2];
    Sums sums_;
};

}  // namespace

ColorMoments color_moments(const Planes& planes) {
    const Sums sums = Adder(planes).sums();
    const double pixels = double(planes.width) * planes.height;
    double mean[3], covariance[3][3], matrix[3][3];
    for (int c = 0; c < 3; ++c) mean[c] = double(sums.sample[c]) / pixels;
    for (int c = 0; c < 3; ++c)
        for (int d = c; d < 3; ++d)
            covariance[c][d] = covariance[d][c] = double(sums.product[c][d]) / pixels - mean[c] * mean[d];
    to_rgb(planes, matrix);
    ColorMoments moments;
    for (size_t channel = 0; channel < 3; ++channel) {
        double level = 128, variance = 0;
        for (int c = 0; c < 3; ++c) {
            level += matrix[channel][c] * mean[c];
            for (int d = 0; d < 3; ++d) variance += matrix[channel][c] * matrix[channel][d] * covariance[c][d];
        }
        moments.mean[channel] = float(std::clamp(level, 0., 255.));
        moments.std[channel] = float(std::sqrt(std::max(variance, 0.)));
    }
    return moments;
}

}  // namespace fastload

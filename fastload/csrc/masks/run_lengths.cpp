#include "run_lengths.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "planes.h"

namespace fastload {
namespace {

constexpr int digit_bits = 5, most_digits = 12;


// A place on an axis as the number of its pixel, or -1 if it is not within `size` pixels.
int pixel_of(double place, int size) { return place >= 0 && place < size ? int(place) : -1; }

}  // namespace

void RunLengths::open(const uint8_t* data, size_t size, int width, int height) {
    const auto require = [&](bool condition) {
        if (!condition)
            throw std::runtime_error("its run lengths are not those of a mask of " + std::to_string(width) + " x " +
                                     std::to_string(height) + " pixels");
    };
    width_ = width, height_ = height;
    ends_.clear();
    const int64_t pixels = int64_t{width} * height;
    require(width >= 0 && height >= 0 && pixels <= max_pixels());
    int64_t end = 0, runs[2] = {};  // the last run is runs[0]
    for (size_t at = 0; at < size;) {
        int64_t value = 0;
        int bits = 0;
        uint8_t digit;
        do {
            require(at < size && bits < digit_bits * most_digits);
            digit = uint8_t(data[at++] - '0');
            require(digit < 64);
            value |= int64_t{digit & 31} << bits;
            bits += digit_bits;
        } while (digit & 32);
        if (digit & 16) value -= int64_t{1} << bits;
        if (ends_.size() > 2) value += runs[1];  // the difference from the run before the last
        require(value >= 0 && value <= pixels - end);
        end += value;
        runs[1] = runs[0], runs[0] = value;
        ends_.push_back(end);
    }
    require(end == pixels);
}

bool RunLengths::draw(const PreciseAffine& map, const Window& limit, BitWindow& bits) {
    if (ends_.size() < 2 || height_ == 0) return false;
    const auto& m = map.m;
    const double determinant = m[0][0] * m[1][1] - m[0][1] * m[1][0];
    PreciseAffine inverse{};
    for (int axis = 0; axis < 2; ++axis) {
        const int other = 1 - axis;
        inverse.m[axis][axis] = m[other][other] / determinant;
        inverse.m[axis][other] = -m[axis][other] / determinant;
        inverse.m[axis][2] = (m[axis][other] * m[other][2] - m[other][other] * m[axis][2]) / determinant;
        for (double value : inverse.m[axis])
            if (!std::isfinite(value)) return false;
    }
    // The columns of the source that may have set pixels, on the canvas.
    const double left = double(ends_[0] / height_), right = double((ends_.back() - 1) / height_ + 1);
    double low[2] = {HUGE_VAL, HUGE_VAL}, high[2] = {-HUGE_VAL, -HUGE_VAL};
    for (double x : {left, right})
        for (double y : {0., double(height_)})
            for (int axis = 0; axis < 2; ++axis) {
                const double place = m[axis][0] * x + m[axis][1] * y + m[axis][2];
                low[axis] = std::min(low[axis], place), high[axis] = std::max(high[axis], place);
            }
    const auto to_pixel = [](double place) { return int(std::floor(std::clamp(place, -1e6, 1e6))); };
    const Window window =
        Window{to_pixel(low[0]) - 1, to_pixel(low[1]) - 1, to_pixel(high[0]) + 2, to_pixel(high[1]) + 2}.within(limit);
    if (window.empty()) return false;
    bits.open(window);
    m[0][1] == 0 && m[1][0] == 0 ? draw_upright(inverse, bits) : draw_turned(inverse, bits);
    return true;
}

// Each column of the canvas shows a column of the source: the ends of its runs are toggled.
void RunLengths::draw_upright(const PreciseAffine& inverse, BitWindow& bits) {
    const Window& window = bits.window();
    // Row y of the source and those below it are in the canvas rows from rows_[y] on; those above it if mirrored.
    const bool mirrored = inverse.m[1][1] < 0;
    const auto source_row = [&](int y) { return std::floor(inverse.m[1][1] * (y + .5) + inverse.m[1][2]); };
    rows_.resize(size_t(height_) + 1);
    int row = mirrored ? window.y1 : window.y0;
    for (int y = 0; y <= height_; ++y) {
        if (mirrored)
            while (row > window.y0 && source_row(row - 1) < y) --row;
        else
            while (row < window.y1 && source_row(row) < y) ++row;
        rows_[size_t(y)] = row;
    }
    for (int x = window.x0; x < window.x1; ++x) {
        const int column = pixel_of(inverse.m[0][0] * (x + .5) + inverse.m[0][2], width_);
        if (column < 0) continue;
        const int64_t begin = int64_t{column} * height_, end = begin + height_;
        auto next = std::lower_bound(ends_.begin(), ends_.end(), begin);
        bool inside = (next - ends_.begin()) % 2 != 0;
        if (inside) bits.toggle(x, rows_[0]);
        for (; next != ends_.end() && *next < end; ++next, inside = !inside) bits.toggle(x, rows_[size_t(*next - begin)]);
        if (inside) bits.toggle(x, rows_[size_t(height_)]);
    }
    bits.spread();
}

void RunLengths::draw_turned(const PreciseAffine& inverse, BitWindow& bits) {
    pixels_.assign(size_t(width_) * size_t(height_), 0);
    for (size_t k = 1; k < ends_.size(); k += 2)
        std::fill(pixels_.begin() + ends_[k - 1], pixels_.begin() + ends_[k], uint8_t{1});
    const auto& m = inverse.m;
    const Window& window = bits.window();
    for (int y = window.y0; y < window.y1; ++y)
        for (int x = window.x0; x < window.x1; ++x) {
            const int column = pixel_of(m[0][0] * (x + .5) + m[0][2] + m[0][1] * (y + .5), width_);
            const int row = pixel_of(m[1][1] * (y + .5) + m[1][2] + m[1][0] * (x + .5), height_);
            if (column >= 0 && row >= 0 && pixels_[size_t(column) * size_t(height_) + size_t(row)]) bits.set(x, y);
        }
}

}  // namespace fastload

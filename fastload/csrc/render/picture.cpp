#include "picture.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastload {

void to_rgb(const Planes& planes, double matrix[3][3]) {
    constexpr double ycbcr[3][3] = {{1, 0, 1.402}, {1, -.344136286, -.714136286}, {1, 1.772, 0}};
    constexpr double identity[3][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}};
    constexpr double grey[3][3] = {{1, 0, 0}, {1, 0, 0}, {1, 0, 0}};
    const auto& chosen = planes.count == 1 ? grey : planes.rgb ? identity : ycbcr;
    std::memcpy(matrix, chosen, sizeof ycbcr);
}

namespace {

int16_t rounded(double value) { return int16_t(std::lround(std::clamp(value, -32767., 32767.))); }

// `to_rgb` followed by the plan's color matrix, in the kernels' fixed point, for planes that `filter` has resampled.
ColorMatrix color_matrix(const Planes& planes, const float color[3][4], Filter filter) {
    double base[3][3];
    to_rgb(planes, base);
    ColorMatrix matrix;
    for (int c = 0; c < 3; ++c) {
        double offset = color[c][3];
        for (int p = 0; p < 3; ++p) {
            double factor = 0;
            for (int k = 0; k < 3; ++k) factor += double(color[c][k]) * base[k][p];
            matrix.plane[c][p] = rounded(factor * blended_scale(filter) * 8 * 32768 / 255);
            offset += 128 * color[c][p];  // planes are centered, so all of them are zero at gray 128
        }
        matrix.offset[c] = rounded(offset * 8 + 4);
    }
    return matrix;
}

}  // namespace

Region region_of(const View& view, bool scaled) {
    const bool antialiases = view.filter == Filter::bilinear || view.filter == Filter::bicubic;
    const auto axis = [&](double start, double extent, int size) {
        const double step = extent / size;
        const double reach = antialiases ? (view.filter == Filter::bicubic ? 2 : 1) * step : 0;
        return Region::Axis{start + step / 2, start + extent - step / 2, reach, scaled && antialiases ? step : 1};
    };
    return {{axis(view.x, view.w, view.width), axis(view.y, view.h, view.height)}};
}

void Picture::open(const Planes& planes, const View& view, const float color[3][4], TableCache& tables) {
    matrix_ = color_matrix(planes, color, view.filter);
    count_ = planes.count;
    width_ = view.width;
    stride_ = size_t(width_ + row_padding - 1) / row_padding * row_padding;

    size_t slots = 0;
    for (int c = 0; c < count_; ++c) {
        Channel& channel = channels_[c];
        channel.plane = planes.plane[c];
        const double dx = (c ? chroma_divisor_x[planes.subsampling] : 1) << channel.plane.halvings;
        const double dy = (c ? chroma_divisor_y[planes.subsampling] : 1) << channel.plane.halvings;
        channel.horizontal = tables.horizontal({view.x / dx, view.w / dx, channel.plane.width, width_, view.flip, view.filter});
        channel.vertical = tables.vertical({view.y / dy, view.h / dy, channel.plane.height, view.height, false, view.filter});
        size_t ring = 2;  // a power of two: slots are found by masking
        while (ring < size_t(channel.vertical->taps)) ring *= 2;
        channel.held.assign(ring, -1);
        channel.wanted.resize(channel.vertical->taps);
        slots += ring + 1;
    }
    auto memory = reinterpret_cast<int16_t*>(memory_.ensure(slots * stride_ * sizeof(int16_t)));
    for (int c = 0; c < count_; ++c) {
        channels_[c].rows = memory;
        channels_[c].blended = memory += channels_[c].held.size() * stride_;
        memory += stride_;
    }
}

const int16_t* Picture::row(Channel& channel, int y) {
    const size_t slot = size_t(y) & (channel.held.size() - 1);
    int16_t* const row = channel.rows + slot * stride_;
    if (channel.held[slot] != y) {
        kernels_->horizontal(channel.plane.data + y * channel.plane.stride, *channel.horizontal, row);
        channel.held[slot] = y;
    }
    return row;
}

int Picture::draw(int y, uint8_t* rgb, uint8_t* canvas) {
    WeightedRows planes[3];
    for (int c = 0; c < count_; ++c) {
        Channel& channel = channels_[c];
        const int taps = channel.vertical->taps;
        for (int k = 0; k < taps; ++k)
            channel.wanted[k] = row(channel, std::min(channel.vertical->first[y] + k, channel.plane.height - 1));
        planes[c] = {channel.wanted.data(), &channel.vertical->weight[size_t(y) * taps], taps, channel.blended};
    }
    return kernels_->blend(planes, count_, matrix_, width_, rgb, canvas);
}

}  // namespace fastload

#include "render.h"

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

// `to_rgb` followed by the plan's color matrix, in the kernels' fixed point.
ColorMatrix color_matrix(const Planes& planes, const float color[3][4]) {
    double base[3][3];
    to_rgb(planes, base);
    ColorMatrix matrix;
    for (int c = 0; c < 3; ++c) {
        double offset = color[c][3];
        for (int p = 0; p < 3; ++p) {
            double factor = 0;
            for (int k = 0; k < 3; ++k) factor += double(color[c][k]) * base[k][p];
            matrix.plane[c][p] = rounded(factor * 8 * 32768 / 255);
            offset += 128 * color[c][p];  // planes are centered, so all of them are zero at gray 128
        }
        matrix.offset[c] = rounded(offset * 8 + 4);
    }
    return matrix;
}

}  // namespace

void Picture::open(const Planes& planes, const Placement& placement, TableCache& tables) {
    placement_ = placement;
    count_ = planes.count;
    matrix_ = color_matrix(planes, placement.color);
    const int width = placement.clip[2], height = placement.clip[3];
    stride_ = size_t(width + row_padding - 1) / row_padding * row_padding;

    size_t slots = 0;
    for (int c = 0; c < count_; ++c) {
        Channel& channel = channels_[c];
        channel.plane = planes.plane[c];
        const double dx = c ? chroma_divisor_x[planes.subsampling] : 1, dy = c ? chroma_divisor_y[planes.subsampling] : 1;
        channel.horizontal = tables.horizontal(
            {placement.crop[0] / dx, placement.crop[2] / dx, channel.plane.width, width, placement.flip});
        channel.vertical =
            tables.vertical({placement.crop[1] / dy, placement.crop[3] / dy, channel.plane.height, height, false});
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
    return kernels_->blend(planes, count_, matrix_, placement_.clip[2], rgb, canvas);
}

namespace {

void fill_pixels(uint8_t* row, int from, int to, const uint8_t fill[3]) {
    for (uint8_t* p = row + 3 * from; p < row + 3 * to; p += 3) std::copy_n(fill, 3, p);
}

// Writes row y of a canvas from packed RGB bytes. `channels` is scratch memory of the same size.
void store(const Canvas& canvas, int y, const uint8_t* rgb, uint8_t* channels, uint8_t* out) {
    const PixelFormat& format = *canvas.format;
    const Kernels& chosen = kernels();
    const size_t width = size_t(canvas.width), size = width * format.sample_bytes();
    if (!format.planar) return chosen.convert(rgb, 3 * width, format, Channels::all, out + 3 * size * y);
    uint8_t* const rows[3] = {channels, channels + width, channels + 2 * width};
    chosen.split(rgb, canvas.width, rows);
    for (int c = 0; c < 3; ++c) {
        uint8_t* const to = out + size * (size_t(canvas.height) * c + y);
        format.sample == Sample::u8 ? chosen.stream(to, rows[c], width)
                                    : chosen.convert(rows[c], width, format, Channels(c), to);
    }
}

}  // namespace

void render(const Canvas& canvas, std::vector<Picture>& pictures, size_t count, Buffer& row_memory, uint8_t* out) {
    const bool packed = canvas.format->is_packed_bytes();
    const size_t size = size_t(3) * canvas.width;
    uint8_t* const blank = row_memory.ensure(3 * size);
    uint8_t *const row = blank + size, *const channels = row + size;
    fill_pixels(blank, 0, canvas.width, canvas.fill);
    std::memcpy(row, blank, size);
    for (int y = 0; y < canvas.height; ++y) {
        int shown = 0;
        for (size_t i = 0; i < count; ++i) {
            const int32_t* clip = pictures[i].placement().clip;
            if (y == clip[1] + clip[3]) std::memcpy(row + 3 * clip[0], blank, size_t(3) * clip[2]);
            shown += y >= clip[1] && y < clip[1] + clip[3];
        }
        uint8_t* const to = packed ? out + size * y : nullptr;  // destination, if bytes are stored unconverted
        size_t begin = 0, end = 0;                              // bytes that draw() has written to it
        for (size_t i = 0; i < count; ++i) {
            const int32_t* clip = pictures[i].placement().clip;
            if (y < clip[1] || y >= clip[1] + clip[3]) continue;
            const size_t left = size_t(3) * clip[0];
            const int direct = pictures[i].draw(y - clip[1], row + left, to && shown == 1 ? to + left : nullptr);
            if (direct) begin = left, end = left + size_t(3) * direct;
        }
        const uint8_t* const from = shown ? row : blank;
        if (!to) {
            store(canvas, y, from, channels, out);
            continue;
        }
        if (begin) kernels().stream(to, from, begin);
        kernels().stream(to + end, from + end, size - end);
    }
}

}  // namespace fastload

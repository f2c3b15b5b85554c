#include "warped.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "tile.h"

namespace fastload {

void WarpedCrop::open(const Placement& placement) {
    for (int axis = 0; axis < 2; ++axis) {
        for (int k = 0; k < 2; ++k) matrix_[axis][k] = placement.warp[axis][k];
        offset_[axis] = placement.warp[axis][2];
        low_[axis] = placement.crop[axis];
        high_[axis] = low_[axis] + placement.crop[axis + 2];
    }
    determinant_ = matrix_[0][0] * matrix_[1][1] - matrix_[0][1] * matrix_[1][0];
    std::copy_n(placement.clip, 4, clip_);
    spans_.resize(size_t(clip_[3]));
    for (int axis = 0; axis < 2; ++axis) {
        seen_low_[axis] = std::numeric_limits<double>::infinity();
        seen_high_[axis] = -seen_low_[axis];
    }
    for (int line = 0; line < clip_[3]; ++line) {
        const int y = clip_[1] + line;
        const Span span = spans_[size_t(line)] = find_span(y);
        if (span.empty()) continue;
        for (int axis = 0; axis < 2; ++axis)
            for (int x : {span.begin, span.end - 1}) {
                const double place = unmap(axis, x + .5, y + .5);
                seen_low_[axis] = std::min(seen_low_[axis], place);
                seen_high_[axis] = std::max(seen_high_[axis], place);
            }
    }
}

bool WarpedCrop::has(int x, int y) const {
    for (int axis = 0; axis < 2; ++axis) {
        const double place = unmap(axis, x + .5, y + .5);
        if (!(place >= low_[axis] && place < high_[axis])) return false;
    }
    return true;
}

Span WarpedCrop::find_span(int y) const {
    const int left = clip_[0], right = left + clip_[2];
    double begin = left, end = right;
    for (int axis = 0; axis < 2; ++axis) {  // where the line enters and leaves the crop
        const double slope = (axis == 0 ? matrix_[1][1] : -matrix_[1][0]) / determinant_;
        if (slope == 0) continue;
        const double start = unmap(axis, left + .5, y + .5);
        const double a = left + (low_[axis] - start) / slope, b = left + (high_[axis] - start) / slope;
        begin = std::max(begin, std::min(a, b));
        end = std::min(end, std::max(a, b));
    }
    // These are rounded, but whether a center lies in the crop must not depend on it.
    int first = int(std::ceil(std::min(begin, double(right)))), last = int(std::ceil(std::max(end, double(left))));
    while (first > left && has(first - 1, y)) --first;
    while (last < right && has(last, y)) ++last;
    while (first < last && !has(first, y)) ++first;
    while (first < last && !has(last - 1, y)) --last;
    return {first, last};
}

namespace {

constexpr int edge = 1;            // pixels that repeat the outermost ones, on each side of a tile
constexpr int path_pixels = 1024;  // steps are rounded to 1/65536 pixel, so a path's end is off by 1/128 at most

// The part of an axis of a tile that shows, with the pixels around it that are interpolated.
struct Part {
    double scale;  // tile pixels for each source pixel
    int begin, end;
};

Part part_of(const Placement& placement, const WarpedCrop& crop, int axis) {
    const double length = placement.crop[axis + 2];
    const double factor = std::hypot(double(placement.warp[0][axis]), double(placement.warp[1][axis]));
    const double shrink = placement.filter == Filter::nearest ? 1 : std::min(factor, 1.);
    const double size = std::max(std::nearbyint(length * shrink), 1.), scale = size / length;
    const double low = (crop.seen_low(axis) - placement.crop[axis]) * scale;
    const double high = (crop.seen_high(axis) - placement.crop[axis]) * scale;
    const int begin = int(std::clamp(std::floor(low) - 1, 0., size - 1));
    return {scale, begin, int(std::clamp(std::ceil(high) + 1, begin + 1., size))};
}

// The pixels whose centers are nearest to the points of a path.
void take_nearest(const Tile& tile, const TilePath& path, int count, uint8_t* rgb) {
    constexpr int half = 1 << 15;
    for (int i = 0; i < count; ++i) {
        const int x = (path.x + i * path.dx + half) >> 16, y = (path.y + i * path.dy + half) >> 16;
        std::memcpy(rgb + 3 * i, tile.pixels + ptrdiff_t(y) * tile.stride + 3 * x, 3);
    }
}

}  // namespace

void WarpedPicture::open(const Placement& placement, const WarpedCrop& crop) {
    view_ = {};
    view_.filter = placement.filter;
    double* const start[2] = {&view_.x, &view_.y};
    double* const extent[2] = {&view_.w, &view_.h};
    int* const size[2] = {&view_.width, &view_.height};
    for (int axis = 0; axis < 2; ++axis) {
        const Part part = part_of(placement, crop, axis);
        *size[axis] = part.end - part.begin;
        *start[axis] = placement.crop[axis] + part.begin / part.scale;
        *extent[axis] = *size[axis] / part.scale;
        const double origin = crop.unmap(axis, 0, 0);
        map_[axis] = {(crop.unmap(axis, 1, 0) - origin) * part.scale, (crop.unmap(axis, 0, 1) - origin) * part.scale,
                      (origin - placement.crop[axis]) * part.scale - part.begin + edge - .5, double(*size[axis] + edge)};
    }
    const int width = view_.width + 2 * edge, height = view_.height + 2 * edge;
    stride_ = 3 * width;
    const int64_t bytes = int64_t(stride_) * height;
    if (std::max(width, height) > tile_side || bytes > std::min<int64_t>(3 * max_pixels(), INT32_MAX))
        throw std::runtime_error("it is too large to be rotated or sheared: reduce it first");
    memory_.ensure(size_t(bytes) + tile_slack);
}

void WarpedPicture::set_source(const Planes& planes, const float color[3][4], TableCache& tables) {
    uint8_t* const pixels = memory_.ensure(0);
    picture_.open(planes, view_, color, tables);
    uint8_t* row = pixels;
    for (int y = 0; y < view_.height; ++y) {
        row += stride_;
        picture_.draw(y, row + 3 * edge, nullptr);
        std::copy_n(row + 3 * edge, 3, row);
        std::copy_n(row + 3 * view_.width, 3, row + 3 * view_.width + 3 * edge);
    }
    std::memcpy(pixels, pixels + stride_, size_t(stride_));
    std::memcpy(row + stride_, row, size_t(stride_));
}

// Rounded places may lie beyond the tile, by more than that if the warp has hardly an inverse.
double WarpedPicture::Map::at(double px, double py) const {
    constexpr double margin = 1. / 64;
    return std::clamp(x * px + y * py + offset, margin, last - margin);
}

void WarpedPicture::draw(int y, Span span, uint8_t* rgb) const {
    const Tile tile{memory_.data(), stride_};
    for (int begin = span.begin; begin < span.end; begin += path_pixels) {
        const int count = std::min(path_pixels, span.end - begin);
        int32_t start[2], step[2];
        for (int axis = 0; axis < 2; ++axis) {
            const double first = map_[axis].at(begin + .5, y + .5), last = map_[axis].at(begin + count - .5, y + .5);
            start[axis] = int32_t(std::floor(first * 65536 + .5));
            step[axis] = count == 1 ? 0 : int32_t(std::floor((last - first) / (count - 1) * 65536 + .5));
        }
        TilePath path{start[0], start[1], step[0], step[1]};
        uint8_t* const out = rgb + 3 * size_t(begin - span.begin);
        if (view_.filter == Filter::nearest) {
            take_nearest(tile, path, count, out);
        } else {
            path.x += 128, path.y += 128;  // rounds fractions to 8 bits
            kernels_->warp(tile, path, count, out);
        }
    }
}

}  // namespace fastload

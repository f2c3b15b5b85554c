#include "region.h"

#include <algorithm>
#include <cmath>

namespace fastload {
namespace {

int rounded_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// How many times a plane may be halved, so that at least `kept` times the size of the result is left: a triangle or cubic
// of less makes the result visibly sharper. Chroma is smaller than the image already.
int halvings(const Region& region, int divisor_x, int divisor_y) {
    const double shrink = std::min(region.axis[0].shrink / divisor_x, region.axis[1].shrink / divisor_y);
    constexpr double kept = 1.5;
    return shrink >= 8 * kept ? 3 : shrink >= 4 * kept ? 2 : shrink >= 2 * kept ? 1 : 0;
}

struct Blocks {
    int begin, end;
};

// `divisor`: pixels of the image for each sample; `size`: samples of a block
Blocks blocks_of(const Region::Axis& axis, int divisor, int samples, int size) {
    const double reach = axis.reach / divisor + region_margin;
    const double first = std::clamp(axis.first / divisor, 0., double(samples)) - reach;
    const double last = std::clamp(axis.last / divisor, 0., double(samples)) + reach;
    const int begin = int(std::clamp(std::floor(first), 0., samples - 1.));
    const int end = int(std::clamp(std::ceil(last), begin + 1., double(samples)));
    return {begin / size, (end + size - 1) / size};
}

}  // namespace

void lay_out(Planes& planes, const Region& region, Buffer& buffer, BlockWindow (&windows)[3]) {
    size_t offset[3] = {}, total = 0;
    for (int c = 0; c < planes.count; ++c) {
        const int dx = c ? chroma_divisor_x[planes.subsampling] : 1, dy = c ? chroma_divisor_y[planes.subsampling] : 1;
        const int halved = halvings(region, dx, dy), size = 8 >> halved;
        const int blocks_w = (planes.width + 8 * dx - 1) / (8 * dx), blocks_h = (planes.height + 8 * dy - 1) / (8 * dy);
        const int width = (planes.width + (dx << halved) - 1) / (dx << halved);
        const int height = (planes.height + (dy << halved) - 1) / (dy << halved);
        const Blocks columns = blocks_of(region.axis[0], dx << halved, width, size);
        const Blocks rows = blocks_of(region.axis[1], dy << halved, height, size);
        const ptrdiff_t stride = rounded_up(rounded_up(blocks_w, 4) * size, 64);
        windows[c] = {columns.begin / 4 * 4, rows.begin, std::min(rounded_up(columns.end, 4), blocks_w), rows.end,
                      size, nullptr, stride};
        planes.plane[c] = {nullptr, width, height, stride, halved};
        offset[c] = total;
        total += size_t(stride) * size_t(blocks_h) * size_t(size);
    }
    uint8_t* const base = buffer.ensure(total + plane_slack);
    for (int c = 0; c < planes.count; ++c) planes.plane[c].data = windows[c].out = base + offset[c];
}

}  // namespace fastload

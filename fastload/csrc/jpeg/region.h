// What is drawn of an image: how much of it decoders have to compute, and at which size.
#pragma once

#include <limits>

#include "planes.h"

namespace fastload {

// By default the whole image at its own size.
struct Region {
    // In pixels of the image.
    struct Axis {
        double first = -std::numeric_limits<double>::infinity(), last = -first;  // the outermost points drawn
        double reach = 0;   // of the filter around these points, if it shrinks by more than 1
        double shrink = 1;  // by how much smaller planes may be
    };
    Axis axis[2];
};

// The blocks of a plane that are decoded. The memory of other blocks is not written.
struct BlockWindow {
    int left, top, right, bottom;  // left is a multiple of four; right, too, or the end of the plane
    int size;                      // samples of a block on each axis: 8, or less in a smaller plane
    uint8_t* out;                  // the plane's first sample
    ptrdiff_t stride;

    uint8_t* block(int x, int y) const { return out + y * size * stride + x * size; }
};

// The largest filter reaches two samples beyond a point; another one is for rounding.
constexpr int region_margin = 3;

// Allocates the planes of an image that consists of blocks, and sets their sizes. Samples outside `windows`, which
// cover the region, are not meant to be read. A stride is a multiple of 64 and covers four more blocks; whole blocks
// follow one another, and plane_slack readable bytes follow the last one.
void lay_out(Planes& planes, const Region& region, Buffer& buffer, BlockWindow (&windows)[3]);

}  // namespace fastload

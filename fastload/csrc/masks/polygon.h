// Polygons as masks, by the rule of pycocotools.
#pragma once

#include <cstddef>
#include <vector>

#include "bit_window.h"

namespace fastload {

struct Vertex {
    double x, y;
};

// The pixels of a mask of `width` x `height` that a polygon covers, within `limit`. Opens `bits` for them; false if there
// are none.
//
// The pixels are those of pycocotools.mask.frPyObjects. Its rule: corners are rounded to fifths of a pixel, and each edge
// is walked in steps of a fifth along its longer side. Where the walk passes the center of a column of pixels, from fifth
// 5 k + 2 to 5 k + 3, the pixels of column k change from outside to inside or back, from the row on whose center is the
// first at or below the upper one of the two steps. A step's place along the shorter side is rounded to a fifth.
//
// Only the steps at the centers of columns are computed here, so an edge takes as long as it crosses columns in the
// limit, however long it is. A polygon with a coordinate that is not finite covers nothing.
bool fill_polygon(const std::vector<Vertex>& corners, const Window& limit, BitWindow& bits);

}  // namespace fastload

// The polygons and run lengths of a cache's objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "polygon.h"

namespace fastload {

// Bytes of a cache, which may be wrong: a std::runtime_error says so.
class MaskShapes {
public:
    // A list for each of n rows: its values begin at offsets[row] and end at offsets[row + 1].
    struct Lists {
        const int64_t* offsets = nullptr;  // null: no row has any
        size_t rows = 0;

        struct Range {
            size_t begin, end;
            bool empty() const { return begin == end; }
        };
        // At most `values` values lie behind the offsets.
        Range of(size_t row, size_t values) const;
    };

    struct Arrays {
        const float* points = nullptr;  // (P, 2) x, y in pixels of the stored image
        size_t points_count = 0;
        Lists rings, ring_points;  // the rings of each object, and the points of each ring
        const uint8_t* bytes = nullptr;  // compressed run lengths, of the annotated image
        size_t bytes_count = 0;
        Lists objects_bytes;
        const int64_t* first_objects = nullptr;  // (images + 1)
        const int32_t* annotated = nullptr;      // (images, 2) width, height of the annotated images
        size_t images = 0;
    };

    // `owner` keeps the arrays alive.
    MaskShapes(const Arrays& arrays, std::shared_ptr<void> owner) : arrays_(arrays), owner_(std::move(owner)) {}

    // The rings of an object.
    Lists::Range rings(size_t object) const { return arrays_.rings.of(object, arrays_.ring_points.rows); }
    // The points of a ring, in double precision.
    void read(size_t ring, std::vector<Vertex>& points) const;

    struct Bytes {
        const uint8_t* data;
        size_t size;
    };
    Bytes run_lengths(size_t object) const;
    // Width and height of an annotated image.
    const int32_t* annotated(size_t image) const;
    // The number of an object among those of its image.
    int64_t number(size_t object, size_t image) const { return int64_t(object) - arrays_.first_objects[image]; }

private:
    Arrays arrays_;
    std::shared_ptr<void> owner_;
};

}  // namespace fastload

#include "mask_shapes.h"

#include <cmath>
#include <stdexcept>

namespace fastload {
namespace {

void require(bool condition, const char* message) {
    if (!condition) throw std::runtime_error(message);
}

// A coordinate as annotation files write it, with two decimals, if `value` is the float nearest to such a number: it is
// then the same double as pycocotools reads from the file.
double as_written(float value) {
    const double rounded = std::nearbyint(double(value) * 100) / 100;
    return float(rounded) == value ? rounded : double(value);
}

}  // namespace

MaskShapes::Lists::Range MaskShapes::Lists::of(size_t row, size_t values) const {
    if (!offsets) return {0, 0};
    require(row < rows, "its object has no row in the columns of masks");
    const int64_t begin = offsets[row], end = offsets[row + 1];
    require(0 <= begin && begin <= end && uint64_t(end) <= values, "the offsets of its masks are damaged");
    return {size_t(begin), size_t(end)};
}

void MaskShapes::read(size_t ring, std::vector<Vertex>& points) const {
    const Lists::Range range = arrays_.ring_points.of(ring, arrays_.points_count);
    points.clear();
    for (size_t i = range.begin; i < range.end; ++i)
        points.push_back({as_written(arrays_.points[2 * i]), as_written(arrays_.points[2 * i + 1])});
}

MaskShapes::Bytes MaskShapes::run_lengths(size_t object) const {
    const Lists::Range range = arrays_.objects_bytes.of(object, arrays_.bytes_count);
    return {arrays_.bytes + range.begin, range.end - range.begin};
}

const int32_t* MaskShapes::annotated(size_t image) const {
    require(image < arrays_.images, "a row's index is not that of an image");
    return arrays_.annotated + 2 * image;
}

}  // namespace fastload

// The core's geometry, which tests compare with Python's.
#include "bindings.h"
#include "geometry.h"
#include "testing.h"

namespace fastload {
namespace {

Affine affine(const Array<float>& matrix) {
    require(matrix.size() == 6, "a map is (2, 3)");
    Affine map;
    std::copy_n(matrix.data(), 6, map.m[0]);
    return map;
}

template <Box (Affine::*change)(const Box&) const>
Array<float> change_boxes(const Array<float>& matrix, const Array<float>& boxes) {
    require(boxes.ndim() == 2 && boxes.shape(1) == 4, "boxes are (M, 4)");
    const Affine map = affine(matrix);
    Array<float> changed({boxes.shape(0), py::ssize_t(4)});
    const auto* from = reinterpret_cast<const Box*>(boxes.data());
    std::transform(from, from + boxes.shape(0), reinterpret_cast<Box*>(changed.mutable_data()),
                   [&map](const Box& box) { return (map.*change)(box); });
    return changed;
}

Array<float> aligned_matrix(const Array<float>& crop, const Array<int32_t>& clip, bool flip) {
    require(crop.size() == 4 && clip.size() == 4, "crop and clip are x, y, w, h");
    const Affine map = Affine::aligned(crop.data(), clip.data(), flip);
    Array<float> matrix({py::ssize_t(2), py::ssize_t(3)});
    std::copy_n(map.m[0], 6, matrix.mutable_data());
    return matrix;
}

}  // namespace

void bind_geometry(py::module_& m) {
    m.def("aligned_matrix", &aligned_matrix, py::arg("crop").noconvert(), py::arg("clip").noconvert(), py::arg("flip"),
          "As `plan.geometry.aligned_matrix`, of one row.");
    m.def("map_boxes", &change_boxes<&Affine::map>, py::arg("matrix").noconvert(), py::arg("boxes").noconvert(),
          "As `plan.geometry.map_boxes`, through one map.");
    m.def("unmap_boxes", &change_boxes<&Affine::unmap>, py::arg("matrix").noconvert(), py::arg("boxes").noconvert(),
          "As `plan.geometry.unmap_boxes`, through one map.");
}

}  // namespace fastload

// The formats of canvases.
#include "bindings.h"
#include "pixel_format.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

std::shared_ptr<PixelFormat> format_of(int sample, bool planar, const std::array<float, 3>& mean,
                                       const std::array<float, 3>& std) {
    require(sample >= 0 && sample < sample_kinds, "no such kind of sample");
    return std::make_shared<PixelFormat>(static_cast<Sample>(sample), planar, mean, std);
}

}  // namespace

void bind_pixels(py::module_& m) {
    py::class_<PixelFormat, std::shared_ptr<PixelFormat>>(m, "PixelFormat")
        .def(py::init(&format_of), py::arg("sample"), py::arg("planar"), py::arg("mean"), py::arg("std"));
}

}  // namespace fastload

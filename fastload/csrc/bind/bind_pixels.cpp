// The formats of canvases, and their kernels alone, for tests.
#include "bindings.h"
#include "kernels.h"
#include "pixel_format.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

std::shared_ptr<PixelFormat> format_of(int sample, bool planar, const std::array<float, 3>& mean,
                                       const std::array<float, 3>& std) {
    require(sample >= 0 && sample < sample_kinds, "no such kind of sample");
    return std::make_shared<PixelFormat>(static_cast<Sample>(sample), planar, mean, std);
}

// A row (W, 3) of pixels as the bytes of its samples.
py::array_t<uint8_t> convert_row(const Array<uint8_t>& rgb, const PixelFormat& format, const std::string& level) {
    require(rgb.ndim() == 2 && rgb.shape(1) == 3, "a row is (W, 3)");
    require(format.sample != Sample::u8, "bytes are not converted");
    const Kernels& kernels = kernels_of(simd_level_named(level));
    const size_t width = size_t(rgb.shape(0)), size = width * format.sample_bytes();
    py::array_t<uint8_t> out(py::ssize_t(3 * size));
    if (!format.planar) {
        kernels.convert(rgb.data(), 3 * width, format, Channels::all, out.mutable_data());
        return out;
    }
    std::vector<uint8_t> rows(3 * width);
    uint8_t* const channels[3] = {rows.data(), rows.data() + width, rows.data() + 2 * width};
    kernels.split(rgb.data(), int(width), channels);
    for (int c = 0; c < 3; ++c) kernels.convert(channels[c], width, format, Channels(c), out.mutable_data() + size * c);
    return out;
}

}  // namespace

void bind_pixels(py::module_& m) {
    py::class_<PixelFormat, std::shared_ptr<PixelFormat>>(m, "PixelFormat")
        .def(py::init(&format_of), py::arg("sample"), py::arg("planar"), py::arg("mean"), py::arg("std"));
    m.def("convert_row", &convert_row, py::arg("rgb").noconvert(), py::arg("format"), py::arg("level"),
          "A row (W, 3) of pixels in a format that is not uint8, as bytes.");
}

}  // namespace fastload

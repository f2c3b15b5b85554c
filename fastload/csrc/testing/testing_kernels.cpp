// The kernels of one set of vector instructions, which tests select in turn.
#include <string>
#include <vector>

#include "bindings.h"
#include "jpeg_planes.h"
#include "kernels.h"
#include "pixel_format.h"
#include "testing.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

std::vector<std::string> level_names() {
    std::vector<std::string> names;
    for (Simd level : simd_levels()) names.push_back(simd_name(level));
    return names;
}

py::list decode_sequential(const py::buffer& buffer, const std::string& level) {
    const Bytes bytes(buffer);
    const Kernels& kernels = kernels_of(simd_level_named(level));
    Buffer memory;
    Planes planes;
    {
        WithoutGil without_gil;
        JpegPlanesDecoder(kernels).planes(bytes.data(), bytes.size(), memory, planes);
    }
    return to_arrays(planes);
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

void bind_kernels(py::module_& m) {
    m.def("simd_levels", &level_names, "The vector instructions of this machine, best first.");
    m.def("decode_sequential", &decode_sequential, py::arg("data"), py::arg("level"),
          "Decode a Huffman-coded sequential JPEG by the core itself to [Y] or [Y, Cb, Cr] or [R, G, B] uint8 arrays; "
          "JpegError for what is left to libjpeg-turbo.");
    m.def("convert_row", &convert_row, py::arg("rgb").noconvert(), py::arg("format"), py::arg("level"),
          "A row (W, 3) of pixels in a format that is not uint8, as bytes.");
}

}  // namespace fastload

// The kernels of one set of vector instructions, which tests select in turn.
#include <algorithm>
#include <string>
#include <vector>

#include "bindings.h"
#include "color_change.h"
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

// Changes a copy of pixels (N, 3).
template <class Change>
Array<uint8_t> changed(const Array<uint8_t>& rgb, const Change& change) {
    require(rgb.ndim() == 2 && rgb.shape(1) == 3, "pixels are (N, 3)");
    Array<uint8_t> out(std::vector<py::ssize_t>{rgb.shape(0), 3});
    std::copy_n(rgb.data(), rgb.size(), out.mutable_data());
    change(out.mutable_data(), size_t(rgb.shape(0)));
    return out;
}

Array<uint8_t> recolor(const Array<uint8_t>& rgb, const Array<float>& color, const std::string& level) {
    require(color.size() == 12, "a color matrix is (3, 4)");
    float values[3][4];
    std::copy_n(color.data(), 12, values[0]);
    const PixelMatrix matrix = pixel_matrix(values);
    const Kernels& kernels = kernels_of(simd_level_named(level));
    return changed(rgb, [&](uint8_t* pixels, size_t count) { kernels.recolor(pixels, count, matrix); });
}

Array<uint8_t> adjust_hsv(const Array<uint8_t>& rgb, const Array<float>& hsv, const std::string& level) {
    require(hsv.size() == 5, "hsv is (5)");
    const HsvChange change = hsv_change(hsv.data());
    const Kernels& kernels = kernels_of(simd_level_named(level));
    return changed(rgb, [&](uint8_t* pixels, size_t count) { kernels.adjust_hsv(pixels, count, change); });
}

LevelTable level_table(const Array<uint8_t>& table) {
    require(table.size() == 3 * 256, "a table is (3, 256)");
    LevelTable levels;
    std::copy_n(table.data(), 3 * 256, levels.level[0]);
    return levels;
}

Array<uint8_t> look_up(const Array<uint8_t>& rgb, const Array<uint8_t>& table, const std::string& level) {
    const LevelTable levels = level_table(table);
    const Kernels& kernels = kernels_of(simd_level_named(level));
    return changed(rgb, [&](uint8_t* pixels, size_t count) { kernels.look_up(pixels, count, levels); });
}

Array<uint8_t> table_of(const Array<uint8_t>& rgb, LevelTable (*make)(const Histogram&)) {
    Histogram histogram{};
    count_levels(rgb.data(), size_t(rgb.size()) / 3, histogram);
    const LevelTable levels = make(histogram);
    Array<uint8_t> table(std::vector<py::ssize_t>{3, 256});
    std::copy_n(levels.level[0], 3 * 256, table.mutable_data());
    return table;
}

}  // namespace

void bind_kernels(py::module_& m) {
    m.def("simd_levels", &level_names, "The vector instructions of this machine, best first.");
    m.def("decode_sequential", &decode_sequential, py::arg("data"), py::arg("level"),
          "Decode a Huffman-coded sequential JPEG by the core itself to [Y] or [Y, Cb, Cr] or [R, G, B] uint8 arrays; "
          "JpegError for what is left to libjpeg-turbo.");
    m.def("convert_row", &convert_row, py::arg("rgb").noconvert(), py::arg("format"), py::arg("level"),
          "A row (W, 3) of pixels in a format that is not uint8, as bytes.");
    m.def("recolor", &recolor, py::arg("rgb").noconvert(), py::arg("color").noconvert(), py::arg("level"),
          "Pixels (N, 3) changed by a color matrix (3, 4).");
    m.def("adjust_hsv", &adjust_hsv, py::arg("rgb").noconvert(), py::arg("hsv").noconvert(), py::arg("level"),
          "Pixels (N, 3) changed by a plan's hsv (5).");
    m.def("look_up", &look_up, py::arg("rgb").noconvert(), py::arg("table").noconvert(), py::arg("level"),
          "Pixels (N, 3) changed by a table (3, 256).");
    m.def(
        "autocontrast_table", [](const Array<uint8_t>& rgb) { return table_of(rgb, autocontrast_table); },
        py::arg("rgb").noconvert(), "The table (3, 256) of PIL's ImageOps.autocontrast for pixels (N, 3).");
    m.def(
        "equalize_table", [](const Array<uint8_t>& rgb) { return table_of(rgb, equalize_table); },
        py::arg("rgb").noconvert(), "The table (3, 256) of PIL's ImageOps.equalize for pixels (N, 3).");
}

}  // namespace fastload

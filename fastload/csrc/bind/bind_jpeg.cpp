// JPEG functions that building and verifying need, one image at a time.
#include <filesystem>
#include <memory>

#include "bindings.h"
#include "moments.h"
#include "turbojpeg.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

JpegDecoder& thread_decoder() {
    thread_local const auto decoder = std::make_unique<JpegDecoder>();
    return *decoder;
}

py::object optional_text(const std::string& text) { return text.empty() ? py::none() : py::object(py::str(text)); }

const char* color_name(const JpegHeader& header) {
    constexpr const char* names[] = {"rgb", "ycbcr", "gray", "cmyk", "ycck"};
    return names[int(header.color)];
}

JpegHeader header_of(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    WithoutGil without_gil;
    return thread_decoder().header(bytes.data(), bytes.size());
}

py::tuple decode_planes(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    Buffer memory;
    Planes planes;
    std::string warning;
    {
        WithoutGil without_gil;
        warning = thread_decoder().planes(bytes.data(), bytes.size(), memory, planes);
    }
    return py::make_tuple(to_arrays(planes), optional_text(warning));
}

py::tuple decode_rgb(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    const JpegHeader header = header_of(buffer);
    Array<uint8_t> rgb({header.height, header.width, 3});
    uint8_t* const pixels = rgb.mutable_data();
    std::string warning;
    {
        WithoutGil without_gil;
        warning = thread_decoder().rgb(bytes.data(), bytes.size(), header, pixels);
    }
    return py::make_tuple(rgb, optional_text(warning));
}

// The inverse of to_arrays.
Planes from_arrays(const std::vector<Array<uint8_t>>& arrays, int subsampling, bool rgb) {
    require(subsampling >= 0 && subsampling < subsampling_kinds, "unknown chroma subsampling");
    require(arrays.size() == (subsampling == gray ? 1 : 3), "expected one plane of a gray image, or three");
    for (const auto& array : arrays) require(array.ndim() == 2 && array.size() > 0, "a plane is (height, width)");
    Planes planes{{}, int(arrays.size()), int(arrays[0].shape(1)), int(arrays[0].shape(0)),
                  static_cast<Subsampling>(subsampling), rgb};
    require(planes.width <= max_side && planes.height <= max_side, "the image is longer than 65,500 pixels");
    for (int c = 0; c < planes.count; ++c) {
        const int dx = c ? chroma_divisor_x[subsampling] : 1, dy = c ? chroma_divisor_y[subsampling] : 1;
        const int width = (planes.width + dx - 1) / dx, height = (planes.height + dy - 1) / dy;
        require(arrays[c].shape(1) == width && arrays[c].shape(0) == height, "a plane is of another size");
        planes.plane[c] = {arrays[c].data(), width, height, width};
    }
    return planes;
}

py::tuple moments_of(const std::vector<Array<uint8_t>>& arrays, int subsampling, bool rgb) {
    const Planes planes = from_arrays(arrays, subsampling, rgb);
    ColorMoments moments;
    {
        WithoutGil without_gil;
        moments = color_moments(planes);
    }
    return py::make_tuple(moments.mean, moments.std);
}

// The PyPI package `turbojpeg` has its library in a separate folder beside its modules.
std::vector<std::string> libraries_on_python_path() {
    namespace fs = std::filesystem;
    std::vector<std::string> found;
    for (const py::handle& entry : py::module_::import("sys").attr("path")) {
        for (const char* folder : {"turbojpeg.libs", "turbojpeg.dylibs"}) {
            std::error_code error;
            for (const auto& file : fs::directory_iterator(fs::path(py::str(entry)) / folder, error))
                if (file.path().filename().string().rfind("libturbojpeg", 0) == 0) found.push_back(file.path().string());
        }
    }
    return found;
}

}  // namespace

void bind_jpeg(py::module_& m) {
    add_turbojpeg_candidates(libraries_on_python_path());
    py::register_exception<JpegError>(m, "JpegError", PyExc_ValueError);

    py::class_<JpegHeader>(m, "JpegHeader")
        .def_readonly("width", &JpegHeader::width)
        .def_readonly("height", &JpegHeader::height)
        .def_readonly("subsampling", &JpegHeader::subsampling, "TurboJPEG's TJSAMP number; -1: irregular.")
        .def_property_readonly("colorspace", &color_name, "rgb, ycbcr, gray, cmyk or ycck.");

    m.def("turbojpeg_path", &turbojpeg_path, "The libturbojpeg in use; RuntimeError when none is found.");
    m.def("max_pixels", &max_pixels, "Pixels an image may have: FASTLOAD_MAX_PIXELS; RuntimeError when it is no number.");
    m.def("jpeg_header", &header_of, py::arg("data"), "Size and color of a JPEG; JpegError when it is none.");
    m.def("decode_planes", &decode_planes, py::arg("data"),
          "Decode by libjpeg-turbo to ([Y] or [Y, Cb, Cr] or [R, G, B] uint8 arrays, warning or None); JpegError on failure.");
    m.def("color_moments", &moments_of, py::arg("planes"), py::arg("subsampling"), py::arg("rgb"),
          "Mean and standard deviation of R, G and B over an image given by its planes; see moments.h.");
    m.def("decode_rgb", &decode_rgb, py::arg("data"),
          "Decode to ((H, W, 3) uint8 array, warning or None); JpegError on failure.");
}

}  // namespace fastload

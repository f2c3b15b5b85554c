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

// Copies the planes only of a file with a warning, which is to be repaired: copies of all would slow down building.
py::tuple check_jpeg(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    std::string warning;
    Buffer memory;
    Planes planes;
    ColorMoments colors{};
    {
        WithoutGil without_gil;
        warning = thread_decoder().planes(bytes.data(), bytes.size(), memory, planes);
        if (warning.empty()) colors = color_moments(planes);
    }
    if (!warning.empty()) return py::make_tuple(py::none(), to_arrays(planes), warning);
    return py::make_tuple(py::make_tuple(colors.mean, colors.std), py::list(), warning);
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
    m.def("check_jpeg", &check_jpeg, py::arg("data"),
          "Decode by libjpeg-turbo. Returns ((mean, standard deviation) of R, G and B, see moments.h; [], \"\"), or\n"
          "(None, planes, warning); JpegError on failure.");
    m.def("decode_rgb", &decode_rgb, py::arg("data"),
          "Decode to ((H, W, 3) uint8 array, warning or None); JpegError on failure.");
}

}  // namespace fastload

// The steps of encoding and decoding a record, one at a time.
#include "bindings.h"
#include "dct.h"
#include "record.h"
#include "testing.h"
#include "turbojpeg.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

py::bytes encode(const py::buffer& buffer, bool entropy) {
    const Bytes bytes(buffer);
    std::vector<uint8_t> packed;
    {
        WithoutGil without_gil;
        packed = dct_encode(bytes.data(), bytes.size(), entropy);
    }
    return py::bytes(reinterpret_cast<const char*>(packed.data()), packed.size());
}

py::list decode(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    Buffer memory;
    Planes planes;
    {
        WithoutGil without_gil;
        DctDecoder().planes(bytes.data(), bytes.size(), memory, planes);
    }
    return to_arrays(planes);
}

DctInfo info(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    return dct_info(bytes.data(), bytes.size());
}

py::bytes transform(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    std::vector<uint8_t> rewritten;
    {
        WithoutGil without_gil;
        rewritten = jpeg_transform(bytes.data(), bytes.size());
    }
    return py::bytes(reinterpret_cast<const char*>(rewritten.data()), rewritten.size());
}

uint64_t checksum_of_record(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    const RecordHeader header = read_header(bytes.data(), bytes.size());
    WithoutGil without_gil;
    return record_checksum(header, bytes.data() + sizeof header);
}

}  // namespace

void bind_encodings(py::module_& m) {
    py::class_<DctInfo>(m, "DctInfo")
        .def_readonly("width", &DctInfo::width)
        .def_readonly("height", &DctInfo::height)
        .def_property_readonly("subsampling", [](const DctInfo& i) { return int(i.subsampling); }, "TJSAMP number.")
        .def_readonly("rgb", &DctInfo::rgb, "The planes are R, G, B.")
        .def_readonly("entropy", &DctInfo::entropy, "Entropy coded: `dct`, else `dct-fast`.")
        .def_readonly("components", &DctInfo::components);

    m.def("dct_encode", &encode, py::arg("data"), py::arg("entropy") = true,
          "Pack a JPEG's coefficients, as `dct` or without entropy coding as `dct-fast`; JpegError when impossible.");
    m.def("dct_decode", &decode, py::arg("data"),
          "Decode a packed JPEG to [Y] or [Y, Cb, Cr] or [R, G, B] uint8 arrays; DctError when damaged.");
    m.def("dct_info", &info, py::arg("data"), "The header of a packed JPEG; DctError when damaged.");
    m.def("jpeg_transform", &transform, py::arg("data"),
          "Rewrite without loss as baseline JPEG without extra markers; JpegError on any warning.");
    m.def("record_checksum", &checksum_of_record, py::arg("record"), "The checksum a record should carry.");
}

}  // namespace fastload

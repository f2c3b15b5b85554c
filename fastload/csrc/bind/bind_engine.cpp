// The engine's class, and functions for single records.
#include "bindings.h"
#include "engine.h"
#include "mask_plan.h"
#include "moments.h"
#include "record.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

// A single record, for Cache, verify and the reference engine.
py::tuple decode_record_planes(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    thread_local const auto decoder = std::make_unique<RecordDecoder>();
    Buffer memory;
    Planes planes;
    {
        WithoutGil without_gil;
        decoder->planes(bytes.data(), bytes.size(), true, memory, planes);
    }
    return py::make_tuple(to_arrays(planes), int(planes.subsampling), planes.rgb);
}

py::tuple record_colors(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    thread_local const auto decoder = std::make_unique<RecordDecoder>();
    ColorMoments colors{};
    {
        WithoutGil without_gil;
        Buffer memory;
        Planes planes;
        decoder->planes(bytes.data(), bytes.size(), true, memory, planes);
        colors = color_moments(planes);
    }
    return py::make_tuple(colors.mean, colors.std);
}

py::bytes payload_of(const py::buffer& jpeg, int encoding) {
    const Bytes bytes(jpeg);
    std::vector<uint8_t> payload;
    {
        WithoutGil without_gil;
        payload = encode_payload(bytes.data(), bytes.size(), static_cast<Encoding>(encoding));
    }
    return py::bytes(reinterpret_cast<const char*>(payload.data()), payload.size());
}

}  // namespace

void bind_engine(py::module_& m) {
    py::register_exception<RecordError>(m, "RecordError", PyExc_ValueError);
    py::class_<Ticket>(m, "Ticket");
    py::class_<Engine, std::shared_ptr<Engine>>(m, "Engine")
        .def(py::init<const Array<uint64_t>&, const Array<uint64_t>&, const Array<uint64_t>&, int, int, py::object, int,
                      py::object, std::shared_ptr<PixelFormat>, int, bool>(),
             py::arg("addresses"), py::arg("lengths"), py::arg("checksums"), py::arg("threads"), py::arg("check"),
             py::arg("owner"), py::arg("in_flight"), py::arg("allocate"), py::arg("format"),
             py::arg("emulated_microseconds") = 0, py::arg("scaled_decoding") = true)
        .def("submit", &Engine::submit, py::arg("plan"), py::arg("ends"), py::arg("masks") = py::none())
        .def("wait",
             [](Engine& engine, const Ticket& ticket, size_t number) {
                 return to_dict(engine.wait(engine.job(ticket, number)));
             })
        .def("images",
             [](Engine& engine, const Ticket& ticket, size_t number) {
                 return engine.images(engine.job(ticket, number));
             })
        .def("masks",
             [](Engine& engine, const Ticket& ticket, size_t number) {
                 return engine.masks(engine.job(ticket, number));
             })
        .def("share", &Engine::share)
        .def("times", &Engine::times)
        .def("done", &Engine::done)
        .def("close", &Engine::close);
    m.def("decode_record", &decode_record_planes, py::arg("record"),
          "Check and decode a whole record (header and payload) to (planes, subsampling, rgb); ValueError on failure.");
    m.def("record_colors", &record_colors, py::arg("record"),
          "Check and decode a whole record to (mean, standard deviation) of R, G and B, see moments.h; ValueError on\n"
          "failure.");
    m.def("encode_payload", &payload_of, py::arg("jpeg"), py::arg("encoding"),
          "A JPEG's payload in an encoding of layout.Encoding; JpegError when it does not decode cleanly or fit it.");
}

}  // namespace fastload

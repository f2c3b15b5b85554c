// A mapped file as a buffer: memoryviews and arrays of it keep it mapped.
#include "bindings.h"
#include "mapped_file.h"

#include <cerrno>
#include <memory>
#include <system_error>

namespace fastload {
namespace {

template <class F>
auto with_os_errors(F&& call) {
    try {
        return call();
    } catch (const std::system_error& error) {
        errno = error.code().value();
        PyErr_SetFromErrno(PyExc_OSError);
        throw py::error_already_set();
    }
}

}  // namespace

void bind_mapped_file(py::module_& m) {
    py::class_<MappedFile>(m, "MappedFile", py::buffer_protocol(),
                           "The bytes of an open file, mapped read-only until nobody sees them any more. Pages that\n"
                           "vanish, since the file is truncated or its disk fails, are read as zeros: see `state`.")
        .def(py::init([](int descriptor) {
                 return with_os_errors([&] { return std::make_unique<MappedFile>(descriptor); });
             }),
             py::arg("descriptor"))
        .def_buffer([](const MappedFile& file) {
            const std::vector<py::ssize_t> shape{py::ssize_t(file.size())}, strides{1};
            return py::buffer_info(const_cast<uint8_t*>(file.data()), 1, "B", 1, shape, strides, true);
        })
        .def("__len__", &MappedFile::size)
        .def(
            "state",
            [](const MappedFile& file) {
                const MappedFile::State state = with_os_errors([&] { return file.state(); });
                return py::make_tuple(state.size, state.changed, state.vanished);
            },
            "As the file is now: bytes, when it was last changed (ns), how often pages were found to have vanished.\n"
            "OSError when that cannot be known.")
        .def_property_readonly("vanished", &MappedFile::vanished, "The last of these: how often pages were found so.")
        .def("release_pages", &MappedFile::release_pages, "Say that the pages need not stay in memory.")
        .def("read_ahead", &MappedFile::read_ahead, py::arg("wanted"),
             "Say whether the pages around one that is read are to be read too. So they are at first.");
}

}  // namespace fastload

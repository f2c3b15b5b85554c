// Converts the packed encodings back to JPEG.
#include "bindings.h"
#include "dct.h"
#include "jpeg_write.h"

namespace fastload {
namespace {

py::bytes to_jpeg(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    std::vector<uint8_t> jpeg;
    {
        WithoutGil without_gil;
        jpeg = write_jpeg(dct_coefficients(bytes.data(), bytes.size()));
    }
    return py::bytes(reinterpret_cast<const char*>(jpeg.data()), jpeg.size());
}

}  // namespace

void bind_jpeg_write(py::module_& m) {
    py::register_exception<DctError>(m, "DctError", PyExc_ValueError);
    m.def("dct_to_jpeg", &to_jpeg, py::arg("data"),
          "A JPEG of a packed image's coefficients; DctError when damaged, JpegError when no JPEG holds them.");
}

}  // namespace fastload

// Each of these registers the functions of a part of the core in `fastload._core`.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "gil.h"
#include "planes.h"

namespace fastload {

namespace py = pybind11;

// The bytes of any contiguous buffer; valid while `info` lives.
struct Bytes {
    explicit Bytes(const py::buffer& buffer) : info(buffer.request()) {
        if (info.ndim != 1 || (info.size > 1 && info.strides[0] != info.itemsize))
            throw std::invalid_argument("expected a contiguous buffer of bytes");
    }
    const uint8_t* data() const { return static_cast<const uint8_t*>(info.ptr); }
    size_t size() const { return size_t(info.size) * info.itemsize; }
    py::buffer_info info;
};

template <class T>
using Array = py::array_t<T, py::array::c_style>;

inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// Copies of an image's planes, as a list of (height, width) arrays.
inline py::list to_arrays(const Planes& planes) {
    py::list arrays;
    for (int c = 0; c < planes.count; ++c) {
        const Plane& plane = planes.plane[c];
        py::array_t<uint8_t> array({plane.height, plane.width});
        for (int y = 0; y < plane.height; ++y)
            std::copy_n(plane.data + y * plane.stride, plane.width, array.mutable_data(y));
        arrays.append(array);
    }
    return arrays;
}

void bind_engine(py::module_& m);
void bind_jpeg(py::module_& m);
void bind_jpeg_write(py::module_& m);
void bind_masks(py::module_& m);
void bind_lmdb_tree(py::module_& m);
void bind_mapped_file(py::module_& m);
void bind_ops(py::module_& m);
void bind_record(py::module_& m);
void bind_pixels(py::module_& m);
void bind_targets(py::module_& m);

}  // namespace fastload

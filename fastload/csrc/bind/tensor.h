// Memory of the core as tensors.
#pragma once

#include <array>
#include <memory>
#include <type_traits>
#include <utility>

#include "bindings.h"
#include "dlpack.h"

namespace fastload {

// Keeps an object alive in code that may not hold the GIL.
inline std::shared_ptr<void> owned(py::object object) {
    return {object.release().ptr(), [](void* owner) {
                if (!Py_IsInitialized()) return;  // the process is ending
                with_gil_or_never([&] {
                    py::gil_scoped_acquire acquire;
                    Py_DECREF(static_cast<PyObject*>(owner));
                });
            }};
}

constexpr char dltensor[] = "dltensor";

template <size_t N>
struct ManagedTensor {
    DLManagedTensor managed;
    std::array<int64_t, N> shape, strides;
    std::shared_ptr<void> memory;
};

// The type of a tensor's elements in DLPack.
struct ElementType {
    uint8_t code, bits;
};

template <class T>
constexpr ElementType element_type = {
    std::is_floating_point_v<T> ? dl_float : std::is_signed_v<T> ? dl_int : dl_unsigned, 8 * sizeof(T)};

// A DLPack capsule of (shape) elements at `data`, which keeps `memory` alive. Strides are in elements. A tensor that
// torch.from_dlpack makes of it is cheap and, unlike one of an array, can be dropped without Python.
template <size_t N>
py::capsule to_capsule(void* data, ElementType type, std::array<int64_t, N> shape, std::array<int64_t, N> strides,
                       std::shared_ptr<void> memory) {
    auto tensor = std::make_unique<ManagedTensor<N>>();
    tensor->shape = shape;
    tensor->strides = strides;
    tensor->memory = std::move(memory);
    tensor->managed.tensor = {data,
                              dl_cpu,
                              0,
                              int32_t(N),
                              type.code,
                              type.bits,
                              1,
                              tensor->shape.data(),
                              tensor->strides.data(),
                              0};
    tensor->managed.context = tensor.get();
    tensor->managed.deleter = [](DLManagedTensor* managed) { delete static_cast<ManagedTensor<N>*>(managed->context); };
    py::capsule capsule(&tensor->managed, dltensor, [](PyObject* object) {
        if (!PyCapsule_IsValid(object, dltensor)) return;  // renamed by the consumer that has taken the tensor over
        auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(object, dltensor));
        managed->deleter(managed);
    });
    tensor.release();
    return capsule;
}

}  // namespace fastload

// DLPack 0, the part that tensors in host memory need: libraries exchange tensors without depending on each other.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace fastload {

constexpr int32_t dl_cpu = 1;
constexpr uint8_t dl_int = 0, dl_unsigned = 1, dl_float = 2, dl_bfloat = 4;

struct DLTensor {
    void* data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t type_code, type_bits;
    uint16_t type_lanes;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

struct DLManagedTensor {
    DLTensor tensor;
    void* context;
    void (*deleter)(DLManagedTensor*);
};

}  // namespace fastload

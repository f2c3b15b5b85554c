// A JPEG's quantized DCT coefficients packed for vector instructions: the encodings `dct` and `dct-fast`.
//
// The decoded planes are bit-identical to those of libjpeg-turbo's accurate integer inverse DCT (JDCT_ISLOW). The
// format is described in dct_format.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "planes.h"
#include "region.h"

namespace fastload {

// The bytes are not a packed record.
struct DctError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct DctInfo {
    int width, height;
    Subsampling subsampling;
    bool rgb;      // the planes are R, G, B
    bool entropy;  // `dct`, else `dct-fast`
    int components;
};

// Packs a JPEG, with entropy coding (`dct`) or without (`dct-fast`). Progressive and arithmetic-coded files are
// rewritten by libjpeg-turbo first. Throws JpegError with the reason if it cannot be packed: damaged, lossless, four
// components, irregular sampling, not 8 bits.
std::vector<uint8_t> dct_encode(const uint8_t* jpeg, size_t size, bool entropy);

// The header of a record, after checking that all of its lengths are consistent. Throws DctError.
DctInfo dct_info(const uint8_t* data, size_t size);

// Unpacks records; one per thread.
class DctDecoder {
public:
    explicit DctDecoder(const Kernels& chosen = kernels()) : kernels_(chosen) {}

    // Decodes into `buffer`, to which `planes` points. Only samples of `region` are written, see lay_out. Throws
    // DctError; the buffer's contents are then unspecified.
    void planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes, const Region& region = {});

    // Decodes the entropy coding only, for benchmarks. Throws DctError.
    void streams_only(const uint8_t* data, size_t size);

private:
    const Kernels& kernels_;
    Buffer scratch_, rows_;
};

}  // namespace fastload

// A JPEG's quantised DCT coefficients packed for vector instructions: the encodings `dct` and `dct-fast`.
//
// The decoded planes are bit for bit those of libjpeg-turbo's accurate integer inverse DCT (JDCT_ISLOW). The format is
// described in dct_format.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "kernels.h"
#include "planes.h"

namespace fastload {

// Bytes that are not a packed record.
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
// rewritten by libjpeg-turbo first. Throws JpegError, saying why, for what cannot be packed: damaged files, four
// components, irregular sampling, other than 8 bits, lossless.
std::vector<uint8_t> dct_encode(const uint8_t* jpeg, size_t size, bool entropy);

// What a record says of itself, once all of its lengths are found consistent. Throws DctError.
DctInfo dct_info(const uint8_t* data, size_t size);

// Unpacks records; one per thread.
class DctDecoder {
public:
    explicit DctDecoder(const Kernels& chosen = kernels()) : kernels_(chosen) {}

    // Decodes into `buffer`, to which `planes` points. A plane's stride is a multiple of 64; it has memory up to whole
    // blocks and plane_slack readable bytes behind it. Throws DctError; the buffer's contents are then unspecified.
    void planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes);

    // Undoes the entropy coding only, for benchmarks. Throws DctError.
    void streams_only(const uint8_t* data, size_t size);

private:
    const Kernels& kernels_;
    Buffer scratch_, rows_;
};

}  // namespace fastload

// Decodes Huffman-coded sequential JPEGs, the common kind, without libjpeg-turbo.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg_parse.h"
#include "kernels.h"
#include "planes.h"

namespace fastload {

// One per thread.
class JpegPlanesDecoder {
public:
    explicit JpegPlanesDecoder(const Kernels& kernels) : kernels_(kernels), parser_(kernels) {}

    // Decodes into `buffer`, to which `planes` points, to the samples that libjpeg-turbo's accurate inverse DCT gives.
    // A plane's stride is a multiple of 64; it has memory up to whole blocks and plane_slack readable bytes behind it.
    // Throws JpegError for what parse_jpeg refuses, and for coefficients that decoders may disagree about; the buffer's
    // contents are then unspecified.
    void planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes);

    // Undoes the entropy coding only, for benchmarks. Throws JpegError.
    void coefficients_only(const uint8_t* data, size_t size);

private:
    const Kernels& kernels_;
    JpegParser parser_;
};

}  // namespace fastload

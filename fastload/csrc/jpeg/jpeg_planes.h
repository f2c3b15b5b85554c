// Decodes Huffman-coded sequential JPEGs, the most common kind, without libjpeg-turbo.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg_parse.h"
#include "kernels.h"
#include "planes.h"
#include "region.h"

namespace fastload {

// One per thread.
class JpegPlanesDecoder {
public:
    explicit JpegPlanesDecoder(const Kernels& kernels) : kernels_(kernels), parser_(kernels) {}

    // Decodes into `buffer`, to which `planes` points. The samples equal those of libjpeg-turbo's accurate inverse DCT.
    // Only those of `region` are written, see lay_out; what follows its last row in the file is not checked.
    // Throws JpegError for files that parse_jpeg refuses, and for coefficients that decoders may disagree about; the
    // buffer's contents are then unspecified.
    void planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes, const Region& region = {});

    // Decodes the entropy coding only, for benchmarks. Throws JpegError.
    void coefficients_only(const uint8_t* data, size_t size);

private:
    const Kernels& kernels_;
    JpegParser parser_;
};

}  // namespace fastload

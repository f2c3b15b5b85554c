// Writes quantized DCT coefficients as a JPEG, to convert the packed encodings back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dct.h"
#include "jpeg_parse.h"

namespace fastload {

// A sequential Huffman-coded JPEG of one scan with these coefficients and optimal tables. Throws JpegError for
// coefficients that no JPEG can hold.
std::vector<uint8_t> write_jpeg(const JpegCoefficients& image);

// The coefficients of a packed record. Throws DctError.
JpegCoefficients dct_coefficients(const uint8_t* data, size_t size);

}  // namespace fastload

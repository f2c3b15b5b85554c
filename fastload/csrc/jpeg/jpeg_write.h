// Writes quantised DCT coefficients as a JPEG: the way back from the packed encodings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dct.h"
#include "jpeg_parse.h"

namespace fastload {

// A sequential Huffman-coded JPEG of one scan holding these coefficients, with tables made for them. Throws JpegError
// for coefficients that no JPEG holds.
std::vector<uint8_t> write_jpeg(const JpegCoefficients& image);

// The coefficients of a packed record. Throws DctError.
JpegCoefficients dct_coefficients(const uint8_t* data, size_t size);

}  // namespace fastload

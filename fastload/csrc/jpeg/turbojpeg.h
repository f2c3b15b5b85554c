// libjpeg-turbo, opened at run time through the entry points that every libturbojpeg since 1.4 has.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "planes.h"

namespace fastload {

// Bytes that are not the JPEG they should be.
struct JpegError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class JpegColor : int { rgb, ycbcr, gray, cmyk, ycck };  // TurboJPEG's TJCS

struct JpegHeader {
    int width, height;
    int subsampling;  // a Subsampling, or -1 when the sampling factors are none of them
    JpegColor color;
};

// Where to look besides FASTLOAD_TURBOJPEG and the system's own places. Call before first use.
void add_turbojpeg_candidates(std::vector<std::string> paths);

// The path of the library in use. Throws std::runtime_error when there is none, saying how to get it.
const std::string& turbojpeg_path();

// One decompressor; one per thread. All methods throw JpegError for bytes they cannot make sense of and
// return libjpeg's warning ("" when there was none): a warning means that some pixels may be wrong.
class JpegDecoder {
public:
    JpegDecoder();
    ~JpegDecoder();
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;

    JpegHeader header(const uint8_t* data, size_t size);

    // Decodes one or three components of regular sampling; `planes` points into `buffer`.
    std::string planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes);

    // Decodes to packed RGB, 3 * width bytes a row. `rgb` holds header.height rows.
    std::string rgb(const uint8_t* data, size_t size, const JpegHeader& header, uint8_t* rgb);

private:
    JpegHeader read_header(const uint8_t* data, size_t size);
    void renew();
    std::string check(int status);
    std::string any_warning(int status);

    void* handle_;
    std::string header_warning_;
};

// Rewrites a JPEG without loss as Huffman-coded baseline without extra markers. A warning is an error here.
std::vector<uint8_t> jpeg_transform(const uint8_t* data, size_t size);

}  // namespace fastload

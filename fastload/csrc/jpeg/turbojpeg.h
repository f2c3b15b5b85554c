// libjpeg-turbo, opened at run time through entry points that every libturbojpeg since 1.4 has.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "planes.h"

namespace fastload {

// The bytes are not a valid JPEG.
struct JpegError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class JpegColor : int { rgb, ycbcr, gray, cmyk, ycck };  // TurboJPEG's TJCS

struct JpegHeader {
    int width, height;
    int subsampling;  // a Subsampling, or -1 for other sampling factors
    JpegColor color;
};

// A folder to search besides FASTLOAD_TURBOJPEG and the system's folders. Call before first use.
void add_turbojpeg_candidates(std::vector<std::string> paths);

// The path of the library in use. Throws std::runtime_error with installation advice if there is none.
const std::string& turbojpeg_path();

// A decompressor; one per thread. All methods throw JpegError for invalid bytes and return libjpeg's warning ("" if
// none): a warning means that some pixels may be wrong.
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

// Rewrites a JPEG losslessly as Huffman-coded baseline without extra markers. A warning is an error here.
std::vector<uint8_t> jpeg_transform(const uint8_t* data, size_t size);

}  // namespace fastload

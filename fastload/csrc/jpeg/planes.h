// A decoded image as its planes: Y, Cb and Cr; only Y; or R, G and B.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>

namespace fastload {

// Kernels load whole vectors: this many bytes after a plane's last sample must be readable.
constexpr size_t plane_slack = 256;

constexpr int max_side = 65'500;  // JPEG_MAX_DIMENSION of libjpeg

// Images of more pixels are refused as decompression bombs, before memory is allocated. Set by FASTLOAD_MAX_PIXELS,
// read once; the default is Pillow's limit. Throws std::runtime_error if it is not a number.
inline int64_t max_pixels() {
    static const int64_t limit = [] {
        const char* chosen = std::getenv("FASTLOAD_MAX_PIXELS");
        if (!chosen || !*chosen) return 178'956'970ll;
        char* end = nullptr;
        const long long value = std::strtoll(chosen, &end, 10);
        if (*end || value < 1 || value > INT32_MAX)
            throw std::runtime_error("FASTLOAD_MAX_PIXELS=" + std::string(chosen) + " is not a number from 1 to " +
                                     std::to_string(INT32_MAX));
        return value;
    }();
    return limit;
}

// TurboJPEG's TJSAMP numbers, and the factors by which chroma is smaller.
enum Subsampling : int { s444, s422, s420, gray, s440, s411 };
constexpr int subsampling_kinds = 6;
constexpr int chroma_divisor_x[subsampling_kinds] = {1, 2, 2, 1, 1, 4};
constexpr int chroma_divisor_y[subsampling_kinds] = {1, 1, 2, 1, 2, 1};

struct Plane {
    const uint8_t* data;
    int width, height;  // valid samples: the image's size divided by the divisor and 2^halvings, rounded up
    ptrdiff_t stride;
    int halvings = 0;  // how many times smaller it was decoded, by a factor of 2 on each axis
};

struct Planes {
    Plane plane[3];
    int count;          // 1 or 3
    int width, height;  // of the image
    Subsampling subsampling;
    bool rgb;
};

// Memory that only grows, aligned for vectors.
class Buffer {
public:
    const uint8_t* data() const { return data_.get(); }
    uint8_t* ensure(size_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            data_.reset(static_cast<uint8_t*>(::operator new(size, std::align_val_t{64})));
            size_ = size;
        }
        return data_.get();
    }

private:
    struct Free {
        void operator()(uint8_t* p) const { ::operator delete(p, std::align_val_t{64}); }
    };
    std::unique_ptr<uint8_t, Free> data_;
    size_t size_ = 0;
};

}  // namespace fastload

// Reads a Huffman-coded sequential JPEG up to its quantized DCT coefficients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "planes.h"

namespace fastload {

struct JpegComponent {
    int id, h, v;            // h, v: sampling factors
    int table;               // number of its quantization table
    int width, height;       // in samples
    int blocks_w, blocks_h;  // in blocks of 8x8 samples, only those with samples of the image
    uint16_t quant[64];      // natural (row by row) order
    std::vector<int16_t> coefficients;  // blocks_h x blocks_w x 64, natural order
};

struct JpegCoefficients {
    int width, height;
    Subsampling subsampling;
    bool rgb;  // the components are R, G, B
    std::vector<JpegComponent> components;
};

constexpr uint8_t zigzag_to_natural[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,   //
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,  //
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,  //
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// Whether parse_jpeg can read files with this frame header; false for progressive, arithmetic and lossless files.
// Throws JpegError if there is no frame header.
bool is_huffman_sequential(const uint8_t* data, size_t size);

// Receives the coefficients of a JPEG while they are decoded.
class BlockSink {
public:
    virtual ~BlockSink() = default;

    // The position of each coefficient in its block, by its index in zigzag order.
    virtual const uint8_t* order() const = 0;

    // Sizes and sampling of the image and its components are known.
    virtual void begin(const JpegCoefficients& image) = 0;

    // How many of the first block rows of component `number` it needs. It may get others, too.
    virtual int rows(size_t number) const = 0;

    // The quantization table of a component is known. Its blocks come next.
    virtual void begin_component(size_t number, const JpegComponent& component) = 0;

    // `count` blocks of component `number`, 64 coefficients each, from column x on in block row y. Zeros follow them up
    // to a multiple of four blocks.
    virtual void put(size_t number, int y, int x, int count, const int16_t* blocks) = 0;
};

// Parses JPEGs; one per thread. Memory and tables are kept for the next one.
class JpegParser {
public:
    explicit JpegParser(const Kernels& kernels);
    ~JpegParser();

    // Throws JpegError with the reason if libjpeg-turbo would not decode the file without a warning, and for 12-bit,
    // CMYK and irregularly sampled files. The components of the result have no coefficients, which went to `sink`.
    JpegCoefficients parse(const uint8_t* data, size_t size, BlockSink& sink);

private:
    struct Tables;
    std::unique_ptr<Tables> tables_;
};

// The same, with the coefficients of the whole image.
JpegCoefficients parse_jpeg(const uint8_t* data, size_t size);

}  // namespace fastload

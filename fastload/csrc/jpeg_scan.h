// The entropy-coded part of a JPEG: Huffman tables and the coefficients of one scan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg_parse.h"

namespace fastload {

// A Huffman table as a DHT segment defines it (ITU T.81, annex C and F.2.2.3).
class JpegHuffmanTable {
public:
    bool defined() const { return defined_; }

    // counts: 16 bytes, the number of codes of each length; symbols: their sum of bytes, at most 256.
    // Throws JpegError when the codes do not fit.
    void define(const uint8_t* counts, const uint8_t* symbols, int symbol_count);

    struct Code {
        int symbol, length;  // length 0: no such code
    };

    // The code at the top of a 64-bit window.
    Code decode(uint64_t window) const {
        const uint16_t entry = fast_[window >> (64 - fast_bits)];
        return entry ? Code{entry & 0xff, entry >> 8} : decode_long(window);
    }

private:
    static constexpr int fast_bits = 10;

    Code decode_long(uint64_t window) const;

    bool defined_ = false;
    uint16_t fast_[1 << fast_bits];  // length << 8 | symbol
    uint32_t end_[17];               // per length: first code beyond it, left-aligned in 16 bits
    int offset_[17];                 // per length: index of its first symbol, less its first code
    uint8_t symbols_[256];
};

struct ScanComponent {
    JpegComponent* component;
    const JpegHuffmanTable* dc;
    const JpegHuffmanTable* ac;
};

struct Scan {
    std::vector<ScanComponent> components;
    int mcus_w, mcus_h;    // of an interleaved scan; a scan of one component has its own blocks
    int restart_interval;  // in MCUs; 0: none
};

// Decodes the entropy-coded segments at `position` into the components' coefficients.
// Returns the position of the marker that ends them. Throws JpegError.
size_t decode_scan(const Scan& scan, const uint8_t* data, size_t size, size_t position);

}  // namespace fastload

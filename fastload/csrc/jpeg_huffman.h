// Huffman tables of a JPEG (ITU T.81, annex C), with what decoding looks up.
#pragma once

#include <cstdint>

namespace fastload {

class JpegHuffmanTable {
public:
    enum Kind { dc, ac };

    // counts: 16 bytes, the number of codes of each length; symbols: their sum of bytes, at most 256.
    // Throws JpegError when the codes do not fit.
    void define(Kind kind, const uint8_t* counts, const uint8_t* symbols, int symbol_count);

    // The table remains as it is, so that defining it once more costs nothing.
    void forget() { defined_ = false; }
    bool defined() const { return defined_; }

    // A DC table with differences of more than 15 bits.
    bool absurd_dc() const { return largest_ > 15; }

    struct Code {
        int symbol, length;  // length 0: no such code
    };

    // The code at the top of a 64-bit window, found without the lookup table.
    Code search(uint64_t window) const {
        const uint32_t bits = uint32_t(window >> 48);
        for (int length = 1; length <= 16; ++length)
            if (bits < end_[length]) return {symbols_[offset_[length] + int(bits >> (16 - length))], length};
        return {0, 0};
    }

    // What the next bits stand for. For DC, in the lowest byte of an entry the length of code and extra bits together,
    // then that of the code and that of the extra bits, a byte each; 0 for a longer code.
    //
    // For AC, up to two coefficients at once: in bits 0 to 3 the length of all, in 6 to 10 how far the first one is
    // from the coefficient before it (in zigzag order), in 11 to 15 the second one from the first, in 16 to 23 and 24
    // to 31 their values. Where there is only one it is given twice, at the distance 0. With `end_of_block` set, the
    // block ends after at most one coefficient (bits 6 to 10 are 0 without one). With `single` set there is one code,
    // whose extra bits do not fit or that has more than 7: its length and in bits 16 to 23 its symbol, or the length 0
    // for a longer code.
    static constexpr int dc_bits = 9, ac_bits = 11;
    static constexpr uint32_t end_of_block = 0x10, single = 0x20, special = end_of_block | single;
    uint32_t lookup[1 << ac_bits];

private:
    void look_up_dc();
    void look_up_ac();

    bool defined_ = false;
    Kind kind_ = dc;
    int symbol_count_ = -1, largest_ = 0;
    uint8_t counts_[16], symbols_[256];
    uint32_t end_[17];  // per length: first code beyond it, left-aligned in 16 bits
    int offset_[17];    // per length: index of its first symbol, less its first code
};

}  // namespace fastload

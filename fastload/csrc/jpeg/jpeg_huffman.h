// Huffman tables of a JPEG (ITU T.81, annex C), with look-up tables for decoding.
#pragma once

#include <cstdint>

namespace fastload {

class JpegHuffmanTable {
public:
    enum Kind { dc, ac };

    // counts: 16 bytes, the number of codes of each length; symbols: their sum of bytes, at most 256.
    // Throws JpegError when the codes do not fit.
    void define(Kind kind, const uint8_t* counts, const uint8_t* symbols, int symbol_count);

    // The definition is kept, so that defining the same table again costs nothing.
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
    // For AC, up to two coefficients at once: in bits 0 to 3 the length of all, in 8 to 15 the value of the first, in
    // 16 to 21 that of the second, in 22 to 26 how far the first is from the coefficient before it (in zigzag order),
    // in 27 to 31 how far the second is. Where there is only one, the distances are the same and the second value means
    // nothing. With `end_of_block` set, the block ends after at most one coefficient, whose distance is in bits 24 to
    // 31: `nowhere` without one. With `single` set there is one code, with more than 7 extra bits or more than fit: its
    // length and in bits 8 to 15 its symbol, or the length 0 for a longer code.
    static constexpr int dc_bits = 9, ac_bits = 11;
    static constexpr uint32_t end_of_block = 0x10, single = 0x20, special = end_of_block | single;
    static constexpr uint32_t nowhere = 128;
    uint32_t lookup[1 << ac_bits] = {};

    static uint32_t dc_entry(Code code) {
        return uint32_t(code.length + code.symbol) | uint32_t(code.length) << 8 | uint32_t(code.symbol) << 16;
    }
    static uint32_t first_distance(uint32_t entry) { return entry >> 22 & 31; }
    static uint32_t both_distances(uint32_t entry) { return entry >> 27; }
    static int8_t first_value(uint32_t entry) { return int8_t(entry >> 8); }
    static int8_t second_value(uint32_t entry) { return int8_t(int32_t(entry << 10) >> 26); }
    static uint32_t last_distance(uint32_t entry) { return entry >> 24; }  // with end_of_block
    static Code single_code(uint32_t entry) { return {int(entry >> 8 & 0xff), int(entry & 15)}; }

private:
    void look_up_dc();
    void look_up_ac();

    bool defined_ = false;
    Kind kind_ = dc;
    int symbol_count_ = -1, largest_ = 0;
    uint8_t counts_[16] = {}, symbols_[256] = {};
    uint32_t end_[17] = {};  // per length: first code beyond it, left-aligned in 16 bits
    int offset_[17] = {};    // per length: index of its first symbol, less its first code
};

}  // namespace fastload

// The packed record, byte by byte. All numbers are little-endian; nothing is aligned.
//
//     "FDC1"
//     uint8   entropy: 1 for `dct`, 0 for `dct-fast`
//     uint8   subsampling, TurboJPEG's number
//     uint8   rgb: 1 if the planes are R, G, B
//     uint8   tables: number of quantization tables, 1 to 3
//     uint32  width, height
//     uint8   table[3]: each component's quantization table (0 where there is no such component)
//     uint8   0
//     uint16  quantization tables, 64 each, row by row
//     section of the first component
//     section of the other two, if there are three
//     64 bytes of zeros, since vectors are loaded whole
//
// A section holds the blocks of its components, each component's row by row, as streams of bytes:
//
//     uint32  masks, values, rest: number of bytes of these streams
//     presence  one byte a block: which of the eight bytes of its mask follow
//     dc        one byte a block, see below
//     masks     those bytes: bit i of byte j is set if coefficient 8 j + i in packed order is not zero
//     values    those coefficients, as int8; -128 stands for a value beyond +-127, which is in `rest`
//     rest      block row by block row, first for `dc`, then for `values`
//
// A stream other than `rest` is a uint32 (2 * its size + 1 when it is Huffman-coded, huffman.h) and its bytes. With
// entropy coding `values` holds magnitudes instead (128 for -128), and is followed by one bit a value, lowest bit
// first, 1 for negative, in (values + 7) / 8 bytes.
//
// dc: the difference d to the block at the left, in the first column to the block above, for the first block to 0.
//     u = 2 d for d >= 0, -2 d - 1 for d < 0. The byte is u for u < 160, else 160 + ((u - 160) >> 8) with the low byte
//     of u - 160 in `rest`.
// A value v beyond +-127 is in `rest` as u = 2 (|v| - 128), plus 1 when negative: a byte for u < 128, else
//     u & 127 | 128 and u >> 7.
//
// Packed order: a mask byte covers two rows and four columns of a block, arranged so that after expanding the values
// the bytes of even address are, as they stand, the left operands of the inverse DCT's multiplications, and so are
// the bytes of odd address.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "dct.h"

namespace fastload {

constexpr uint32_t dct_magic = 0x31434446;  // "FDC1"
constexpr size_t dct_padding = 64;
constexpr int dc_escape = 160;

// Index in row-by-row order of each coefficient in packed order.
constexpr std::array<uint8_t, 64> packed_to_natural = [] {
    constexpr int row_pairs[4][2] = {{0, 2}, {1, 3}, {4, 6}, {5, 7}};
    std::array<uint8_t, 64> order{};
    for (int p = 0; p < 64; ++p) {
        const int row = row_pairs[p >> 4][p >> 1 & 1];
        const int column = (p >> 3 & 1) * 4 + (p >> 2 & 1) * 2 + (p & 1);
        order[size_t(p)] = uint8_t(row * 8 + column);
    }
    return order;
}();

struct DctStream {
    const uint8_t* data;
    size_t size;   // in the record
    size_t count;  // decoded
    bool coded;
};

struct DctSection {
    int components;
    DctStream presence, dc, masks, values, rest;
    const uint8_t* signs;  // null without entropy coding
};

struct DctComponent {
    int width, height, blocks_w, blocks_h;
    uint16_t quant[64];  // row by row
};

struct DctRecord {
    DctInfo info;
    DctComponent component[3];
    DctSection section[2];
    int sections;
};

// Takes a record apart; all streams are within its bytes and followed by dct_padding more. Throws DctError.
DctRecord read_dct_record(const uint8_t* data, size_t size);

}  // namespace fastload

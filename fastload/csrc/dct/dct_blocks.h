// From a section's streams to samples: code that the kernels share.
//
// The inverse DCT is that of Loeffler, Ligtenberg and Moschytz (1989), scaled and rounded as in libjpeg's jidctint.c.
// Each output is written as a sum over its inputs, which gives the same integers. On overflow (never with data from
// dct_encode) products, sums and dequantized coefficients wrap, and the result of each pass saturates.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dct_format.h"

namespace fastload {

// The decoded streams of a section, and the positions up to which they were read. open_section has checked that as many
// bytes of `masks` are decoded as bits are set in `presence`, and as many of `values` as bits are set in these, so
// blocks are read without further checks. Only `rest` is checked on reading. Readable past their ends: 1 byte of rest, 8 of
// presence and masks, 64 of values.
struct BlockStreams {
    const uint8_t* presence;
    const uint8_t* dc;
    const uint8_t* masks;
    const uint8_t* values;
    const uint8_t* rest;
    const uint8_t* rest_end;
};

// The next large value of `rest`. Throws DctError at its end.
int read_large_value(BlockStreams& streams);

// Reads the first `wanted` of a block row's DC coefficients from `streams`, at least one: dc[stride * x] for block x.
// Passes over the others. `above` is the first DC coefficient of the row above, 0 for the first row.
void read_dc_row(BlockStreams& streams, int blocks, int wanted, int above, int16_t* dc, int stride);

// If the dequantized coefficients of a column (or of two columns that the inverse DCT adds) sum to more, 16-bit
// arithmetic overflows and decoders differ. Up to it, a first-pass result is at most 4 * 1.39 * 5800 < 32768. No 8-bit
// image comes near.
constexpr int column_limit = 5800;

// The position of each coefficient in transform order, by its row-by-row index. In transform order, coefficients are
// the left operands of the inverse DCT's multiplications without shuffling: first columns 0, 2, 4, 6, then 1, 3, 5, 7,
// each as pairs of rows in packed order.
constexpr std::array<uint8_t, 64> natural_to_transform = [] {
    std::array<uint8_t, 64> order{};
    for (size_t p = 0; p < 64; ++p) order[packed_to_natural[p]] = uint8_t((p & 1) * 32 + (p >> 4) * 8 + (p >> 1 & 7));
    return order;
}();

// Scratch memory for one block row: blocks rounded up to four, 96 bytes each.
constexpr size_t row_scratch(int blocks) { return (size_t(blocks) + 3) / 4 * 4 * 96; }

// The largest quantization step for Kernels::inverse_dct: eight steps times any 16-bit coefficient fit into 32 bits.
constexpr int largest_step = 8191;

namespace idct {

// jidctint.c's constants, in 13 bits after the point.
constexpr int f0298 = 2446, f0390 = 3196, f0541 = 4433, f0765 = 6270, f0899 = 7373, f1175 = 9633, f1501 = 12299,
              f1847 = 15137, f1961 = 16069, f2053 = 16819, f2562 = 20995, f3072 = 25172, one = 8192;

// Even outputs 0 to 3 before the odd ones are added (for 0 to 3) and subtracted (for 7 to 4), by inputs 0, 2, 4, 6.
constexpr int even[4][4] = {{one, f0541 + f0765, one, f0541},
                            {one, f0541, -one, f0541 - f1847},
                            {one, -f0541, -one, f1847 - f0541},
                            {one, -f0541 - f0765, one, -f0541}};

// Odd parts of outputs 0 to 3, by inputs 1, 3, 5, 7.
constexpr int odd[4][4] = {
    {f1501 - f0899 - f0390 + f1175, f1175, f1175 - f0390, f1175 - f0899},
    {f1175, f3072 - f2562 - f1961 + f1175, f1175 - f2562, f1175 - f1961},
    {f1175 - f0390, f1175 - f2562, f2053 - f2562 - f0390 + f1175, f1175},
    {f1175 - f0899, f1175 - f1961, f1175, f0298 - f0899 - f1961 + f1175}};

constexpr int shift[2] = {11, 18};  // after the first pass (columns) and the second (rows)

// Smaller blocks, of 4, 2 or 1 samples on each axis, are the inverse DCT of that size of a block's lowest coefficients:
// the factor of input u for output i. They are in the same units, so shifts are the same.
constexpr int reduced(int size, int i, int u) {
    if (u >= size) return 0;
    return size == 4 ? even[i][u] : i && u ? -one : one;
}

}  // namespace idct
}  // namespace fastload

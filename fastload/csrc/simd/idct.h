// The inverse DCT of one block per lane of a vector. dct_blocks.h has the sums, scalar.cpp the specification. Each file
// of vector kernels includes it once, after defining
//     Row: the data of a row of blocks before its samples are computed. `dc` has a coefficient every 16 bytes.
//     read_blocks(streams, left, right, row): reads some of its blocks, all but `dc`; zeros follow up to whole vectors.
//     load_units(row, x, unit): coefficients of the blocks from x on, a quarter in packed order of each in its lane.
//     store_four_rows(left, right, out, stride): four rows of blocks, whose halves are in `left` and `right`.
#pragma once

#include <algorithm>
#include <cstring>

#include "dct_blocks.h"
#include "region.h"
#include "skip_blocks.h"

namespace fastload {
namespace {

// A component's quantization table in transform order, the same in all lanes.
struct Quantization {
    Vector half[2][4];
};

// `quant` in transform order.
TARGET Quantization quantization(const uint16_t* quant) {
    Quantization result;
    for (int i = 0; i < 8; ++i) result.half[i / 4][i % 4] = all_lanes(load_lane(quant + 8 * i));
    return result;
}

TARGET Quantization quantization_of(const DctComponent& component) {
    uint16_t quant[64];
    for (size_t i = 0; i < 64; ++i) quant[natural_to_transform[i]] = component.quant[i];
    return quantization(quant);
}

TARGET_INLINE Vector coefficient_pair(int first, int second) {
    return all32(int((uint32_t(second) << 16) | (uint32_t(first) & 0xffff)));
}

// One pass over inputs in pairs (0, 2), (4, 6), (1, 3), (5, 7); the eight outputs in 32 bits, before the shift.
TARGET_INLINE void transform(const Vector (&in)[4], Vector rounding, Vector (&out)[8]) {
    for (int i = 0; i < 4; ++i) {
        const auto &e = idct::even[i], &o = idct::odd[i];
        Vector even = add_dot16(rounding, in[0], coefficient_pair(e[0], e[1]));
        even = add_dot16(even, in[1], coefficient_pair(e[2], e[3]));
        Vector odd = dot16(in[2], coefficient_pair(o[0], o[1]));
        odd = add_dot16(odd, in[3], coefficient_pair(o[2], o[3]));
        out[i] = add32(even, odd);
        out[7 - i] = subtract32(even, odd);
    }
}

TARGET_INLINE Vector shifted_pair(Vector a, Vector b, int shift) {
    return pack32(shift_right32(a, shift), shift_right32(b, shift));
}

// First pass: half[0] holds columns 0, 2, 4, 6 and half[1] columns 1, 3, 5, 7, each in pairs of rows. The results are
// pairs of columns for rows 0 to 3 (rows[0]) and 4 to 7 (rows[1]).
TARGET_INLINE void transform_columns(const Vector (&half)[2][4], Vector (&rows)[2][4]) {
    const Vector rounding = all32(1 << (idct::shift[0] - 1));
    for (int h = 0; h < 2; ++h) {
        Vector out[8];
        transform(half[h], rounding, out);
        for (int r = 0; r < 2; ++r) {
            const Vector a = shifted_pair(out[4 * r], out[4 * r + 1], idct::shift[0]);
            const Vector b = shifted_pair(out[4 * r + 2], out[4 * r + 3], idct::shift[0]);
            rows[r][2 * h] = select32<0x88>(a, b);
            rows[r][2 * h + 1] = select32<0xdd>(a, b);
        }
    }
}

// Converts four columns of four rows in 32 bits to bytes, row by row in each lane.
TARGET_INLINE Vector pack_samples(const Vector* column) {
    const Vector words_a = shifted_pair(column[0], column[1], idct::shift[1]);
    const Vector words_b = shifted_pair(column[2], column[3], idct::shift[1]);
    const Vector bytes = bit_xor(pack16(words_a, words_b), all8(-128));
    return shuffle8(bytes, all_lanes(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)));
}

TARGET_INLINE void transform_rows(const Vector (&rows)[2][4], uint8_t* out, ptrdiff_t stride) {
    const Vector rounding = all32(1 << (idct::shift[1] - 1));
    for (int r = 0; r < 2; ++r, out += 4 * stride) {
        Vector columns[8];
        transform(rows[r], rounding, columns);
        store_four_rows(pack_samples(columns), pack_samples(columns + 4), out, stride);
    }
}

// Coefficients in transform order.
TARGET_INLINE void transform_blocks(const Vector (&half)[2][4], const Quantization& quant, uint8_t* out,
                                    ptrdiff_t stride) {
    constexpr int in_order[4] = {0, 2, 1, 3};  // units hold row pairs (0, 2), (1, 3), (4, 6), (5, 7)
    Vector scaled[2][4], rows[2][4];
    for (int h = 0; h < 2; ++h)
        for (int i = 0; i < 4; ++i) scaled[h][i] = multiply16(half[h][in_order[i]], quant.half[h][in_order[i]]);
    transform_columns(scaled, rows);
    transform_rows(rows, out, stride);
}

// A pass of the inverse DCT of 4, 2 or 1 coefficients, in the words of rows or columns 0 and 2 and those of 1 and 3.
template <int size>
TARGET_INLINE void transform_reduced(Vector even, Vector odd, Vector rounding, Vector (&out)[4]) {
    for (int i = 0; i < 4; ++i) out[i] = zeros();
    for (int i = 0; i < size; ++i) {
        using idct::reduced;
        out[i] = add_dot16(rounding, even, coefficient_pair(reduced(size, i, 0), reduced(size, i, 2)));
        if (size > 1) out[i] = add_dot16(out[i], odd, coefficient_pair(reduced(size, i, 1), reduced(size, i, 3)));
    }
}

// As transform_blocks, to blocks of `size` x `size` samples.
template <int size>
TARGET_INLINE void transform_reduced_blocks(const Vector (&half)[2][4], const Quantization& quant, uint8_t* out,
                                            ptrdiff_t stride) {
    Vector rows[2], columns[4];
    for (int h = 0; h < 2; ++h) {
        Vector sums[4];
        transform_reduced<size>(multiply16(half[h][0], quant.half[h][0]), multiply16(half[h][1], quant.half[h][1]),
                                all32(1 << (idct::shift[0] - 1)), sums);
        rows[h] = select32<0x88>(shifted_pair(sums[0], sums[1], idct::shift[0]),
                                 shifted_pair(sums[2], sums[3], idct::shift[0]));
    }
    transform_reduced<size>(rows[0], rows[1], all32(1 << (idct::shift[1] - 1)), columns);
    alignas(Vector) uint8_t samples[16 * lanes];
    store(samples, pack_samples(columns));
    for (int y = 0; y < size; ++y)
        for (int lane = 0; lane < lanes; ++lane)
            std::memcpy(out + y * stride + size * lane, samples + 16 * lane + 4 * y, size);
}

template <int size>
TARGET_INLINE void transform_to(const Vector (&half)[2][4], const Quantization& quant, uint8_t* out, ptrdiff_t stride) {
    if constexpr (size == 8)
        transform_blocks(half, quant, out, stride);
    else
        transform_reduced_blocks<size>(half, quant, out, stride);
}

// Puts coefficients beyond +-127 in their places.
TARGET __attribute__((noinline)) void replace_large_values(BlockStreams& streams, const Vector (&unit)[4],
                                                           Vector (&half)[2][4]) {
    alignas(Vector) int16_t words[2][4][8 * lanes];
    std::memcpy(words, half, sizeof words);
    uint64_t places[4];  // 16 bits a lane
    for (int i = 0; i < 4; ++i) places[i] = equal8(unit[i], -128);
    for (int lane = 0; lane < lanes; ++lane) {
        uint64_t large = 0;
        for (int i = 0; i < 4; ++i) large |= (places[i] >> 16 * lane & 0xffff) << 16 * i;
        for (; large; large &= large - 1) {
            const int p = __builtin_ctzll(large);
            words[p & 1][p >> 4][lane * 8 + (p >> 1 & 7)] = int16_t(read_large_value(streams));
        }
    }
    std::memcpy(half, words, sizeof words);
}

template <int size>
TARGET_INLINE void decode_group(BlockStreams& streams, const Row& row, int x, const Quantization& quant, uint8_t* out,
                                ptrdiff_t stride) {
    Vector unit[4], half[2][4];
    load_units(row, x, unit);
    for (int i = 0; i < 4; ++i) {
        half[0][i] = shift_right16(shift_left16(unit[i], 8), 8);
        half[1][i] = shift_right16(unit[i], 8);
    }
    const Vector least = min8(min8(unit[0], unit[1]), min8(unit[2], unit[3]));
    if (__builtin_expect(equal8(least, -128) != 0, 0)) replace_large_values(streams, unit, half);
    half[0][0] = replace_first16(half[0][0], row.dc + 8 * x);
    transform_to<size>(half, quant, out, stride);
}

template <int size>
TARGET void decode_blocks_to(BlockStreams& streams, const DctComponent& component, const BlockWindow& window, int rows,
                             uint8_t* scratch) {
    const Quantization quant = quantization_of(component);
    const int blocks = component.blocks_w;
    const Row row(scratch, (blocks + lanes - 1) / lanes * lanes);
    row.dc[0] = 0;
    for (int y = 0; y < rows; ++y) {
        const bool skipped = y < window.top || y >= window.bottom;
        read_dc_row(streams, blocks, skipped ? 1 : window.right, row.dc[0], row.dc, 8);
        if (skipped) {
            skip_blocks(streams, blocks);
            continue;
        }
        skip_blocks(streams, window.left);
        read_blocks(streams, window.left, window.right, row);
        for (int x = window.left; x < window.right; x += lanes)
            decode_group<size>(streams, row, x, quant, window.out + size * (y * window.stride + x), window.stride);
        skip_blocks(streams, blocks - window.right);
    }
}

TARGET void decode_blocks(BlockStreams& streams, const DctComponent& component, const BlockWindow& window, int rows,
                          uint8_t* scratch) {
    const auto decode = window.size == 8   ? decode_blocks_to<8>
                        : window.size == 4 ? decode_blocks_to<4>
                        : window.size == 2 ? decode_blocks_to<2>
                                           : decode_blocks_to<1>;
    decode(streams, component, window, rows, scratch);
}

template <int size>
TARGET int inverse_dct_to(const int16_t* blocks, int count, const uint16_t* quant, uint8_t* out, ptrdiff_t stride) {
    constexpr int units = size == 8 ? 4 : 2;
    const Quantization steps = quantization(quant);
    Vector worst = zeros();
    for (int x = 0; x < count; x += lanes, blocks += 64 * lanes) {
        Vector half[2][4], sum[2];
        for (int h = 0; h < 2; ++h) {
            sum[h] = zeros();
            for (int i = 0; i < units; ++i) {
                half[h][i] = load_lanes(reinterpret_cast<const uint8_t*>(blocks + 32 * h + 8 * i), 128);
                Vector magnitude = absolute16(half[h][i]);
                if (h == 0 && i == 0) magnitude = min_unsigned16(magnitude, all16(32767));  // DC: -32768
                sum[h] = add_dot16(sum[h], magnitude, steps.half[h][i]);
            }
        }
        worst = max32(worst, max32(sum[0], sum[1]));
        transform_to<size>(half, steps, out + size * x, stride);
    }
    return largest32(worst);
}

TARGET int inverse_dct(const int16_t* blocks, int count, const uint16_t* quant, int size, uint8_t* out,
                       ptrdiff_t stride) {
    const auto inverse = size == 8   ? inverse_dct_to<8>
                         : size == 4 ? inverse_dct_to<4>
                         : size == 2 ? inverse_dct_to<2>
                                     : inverse_dct_to<1>;
    return inverse(blocks, count, quant, out, stride);
}

}  // namespace
}  // namespace fastload

// NEON kernels for arm64; scalar.cpp is their specification.
//
// They share no source with the others: NEON has its own ways to shuffle, store triples and sum pairs, and its vector
// is a single lane.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstring>

#include "huffman.h"
#include "jpeg_scan.h"
#include "kernels.h"
#include "resample.h"

namespace fastload {
namespace {

// Stores may alias anything, so loops copy the tables that they read to locals first.

struct Products {
    int16x8_t low, high;
};

// Sixteen weights times sixteen samples, centered.
inline Products products(uint8x16_t weights, uint8x16_t samples) {
    const int8x16_t centred = vreinterpretq_s8_u8(veorq_u8(samples, vdupq_n_u8(128)));
    const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(weights)));
    const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(weights));
    return {vmulq_s16(low, vmovl_s8(vget_low_s8(centred))), vmulq_s16(high, vmovl_high_s8(centred))};
}

void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const int32_t* const base = table.base8.data();
    const uint8_t *const index = table.index8.data(), *const weight = table.weight.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 8) {
        const uint8x16_t pairs = vqtbl1q_u8(vld1q_u8(row + base[u / 8]), vld1q_u8(index + 2 * u));
        const Products p = products(vld1q_u8(weight + 2 * u), pairs);
        vst1q_s16(out + u, vpaddq_s16(p.low, p.high));
    }
}

void horizontal_many(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const int groups = table.taps / 4, size = table.axis.size;
    for (int u = 0; u < size; u += 4) {
        const uint8_t* weights = &table.weights[(size_t(u / 16) * groups * 16 + u % 16) * 4];
        const uint8_t* samples = row + table.base4[u / 4];
        const uint8x16_t index = vld1q_u8(&table.index4[4 * u]);
        int32x4_t sum = vdupq_n_s32(0);
        for (int g = 0; g < groups; ++g, samples += 4, weights += 64) {
            const Products p = products(vld1q_u8(weights), vqtbl1q_u8(vld1q_u8(samples), index));
            sum = vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(p.low), vpaddlq_s16(p.high)));
        }
        const int32x4_t scaled = vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(&table.norm[u])));
        vst1_s16(out + u, vqmovn_s32(scaled));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (table.taps == 2) return horizontal_two(row, table, out);
    table.shuffles4 && !table.weights.empty() ? horizontal_many(row, table, out)
                                               : scalar_kernels.horizontal(row, table, out);
}

void vertical(const int16_t* const* rows, const int16_t* weights, int taps, int width, int16_t* out) {
    for (int u = 0; u < width; u += 8) {
        int16x8_t sum = vdupq_n_s16(0);
        for (int k = 0; k < taps; ++k) sum = vqaddq_s16(sum, vqrdmulhq_n_s16(vld1q_s16(rows[k] + u), weights[k]));
        vst1q_s16(out + u, sum);
    }
}

template <int count>
uint8x8_t channel(const int16x8_t samples[3], const ColorMatrix& matrix, int c) {
    int16x8_t sum = vqrdmulhq_n_s16(samples[0], matrix.plane[c][0]);
    for (int p = 1; p < count; ++p) sum = vqaddq_s16(sum, vqrdmulhq_n_s16(samples[p], matrix.plane[c][p]));
    return vqmovun_s16(vshrq_n_s16(vqaddq_s16(sum, vdupq_n_s16(matrix.offset[c])), 3));
}

template <int count>
void color_of(const int16_t* const planes[3], const ColorMatrix& given, int width, uint8_t* rgb) {
    const ColorMatrix matrix = given;
    for (int u = 0; u < width; u += 8) {
        int16x8_t samples[3];
        for (int p = 0; p < count; ++p) samples[p] = vld1q_s16(planes[p] + u);
        uint8x8x3_t pixels;
        for (int c = 0; c < 3; ++c) pixels.val[c] = channel<count>(samples, matrix, c);
        if (width - u >= 8) {
            vst3_u8(rgb + 3 * u, pixels);
        } else {
            uint8_t rest[24];
            vst3_u8(rest, pixels);
            std::memcpy(rgb + 3 * u, rest, size_t(3) * (width - u));
        }
    }
}

void color(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    planes[1] ? color_of<3>(planes, matrix, width, rgb) : color_of<1>(planes, matrix, width, rgb);
}

void stream(uint8_t* to, const uint8_t* from, size_t size) { std::memcpy(to, from, size); }

}  // namespace

// Compilers vectorize the other kernels.
const Kernels neon_kernels = {horizontal,
                              vertical_then_color<vertical, color>,
                              stream,
                              scalar_kernels.recolor,
                              scalar_kernels.adjust_hsv,
                              scalar_kernels.look_up,
                              scalar_kernels.warp,
                              scalar_kernels.mix,
                              scalar_kernels.split,
                              scalar_kernels.convert,
                              scalar_kernels.decode_blocks,
                              scalar_kernels.inverse_dct,
                              scalar_kernels.apply_signs,
                              scalar_kernels.set_bits,
                              scalar_kernels.weighted_sum,
                              huffman_decode,
                              decode_mcus};

}  // namespace fastload
#endif

// AVX2 kernels (with FMA, F16C and BMI2); scalar.cpp says what they compute.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "dct_blocks.h"
#include "huffman.h"
#include "jpeg_scan.h"
#include "kernels.h"
#include "pixel_format.h"
#include "resample.h"

#define TARGET __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) inline

#include "dct_avx2.h"
#include "samples_avx2.h"
#include "set_bits.h"

namespace fastload {
namespace {

TARGET inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TARGET inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
TARGET inline void store(void* p, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(p), value); }

// Stores may alias anything, so what a loop reads of its tables is copied to locals first.

TARGET void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i center = _mm256_set1_epi8(-128);
    const int32_t* base = table.base8.data();
    const uint8_t *index = table.index8.data(), *weight = table.weight.data();
    const int16_t* const end = out + table.axis.size;
    for (; out < end; out += 16, base += 2, index += 32, weight += 32) {
        const __m256i samples =
            _mm256_inserti128_si256(_mm256_castsi128_si256(load_half(row + base[0])), load_half(row + base[1]), 1);
        const __m256i pairs = _mm256_shuffle_epi8(_mm256_xor_si256(samples, center), load(index));
        store(out, _mm256_maddubs_epi16(load(weight), pairs));
    }
}

// Four taps of eight outputs: even and odd taps apart, since a pair's products may exceed 16 bits.
TARGET inline __m256i dot(__m256i sum, __m256i weights, __m256i samples) {
    const __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(samples, 8), 8),
                                           _mm256_and_si256(weights, _mm256_set1_epi16(255)));
    const __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16(samples, 8), _mm256_srli_epi16(weights, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

template <bool shuffles>
TARGET void horizontal_many(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i center = _mm256_set1_epi8(-128);
    const int groups = table.taps / 4, size = table.axis.size;
    for (int u = 0; u < size; u += 8) {
        const uint8_t* weights = &table.weights[(size_t(u / 16) * groups * 16 + u % 16) * 4];
        const __m256i where = load(shuffles ? static_cast<const void*>(&table.index4[4 * u]) : &table.start[u]);
        const uint8_t* low = shuffles ? row + table.base4[u / 4] : row;
        const uint8_t* high = shuffles ? row + table.base4[u / 4 + 1] : row;
        __m256i sum = _mm256_setzero_si256();
        for (int g = 0; g < groups; ++g, low += 4, high += 4, weights += 64) {
            const __m256i taps =
                shuffles ? _mm256_shuffle_epi8(
                               _mm256_inserti128_si256(_mm256_castsi128_si256(load_half(low)), load_half(high), 1), where)
                         : _mm256_i32gather_epi32(reinterpret_cast<const int*>(low), where, 1);
            sum = dot(sum, load(weights), _mm256_xor_si256(taps, center));
        }
        const __m256i scaled =
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(&table.norm[u])));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(scaled, scaled), 0xD8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + u), _mm256_castsi256_si128(packed));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (table.taps == 2) return horizontal_two(row, table, out);
    table.shuffles4 ? horizontal_many<true>(row, table, out) : horizontal_many<false>(row, table, out);
}

// Blends the rows of a plane.
struct Blender {
    TARGET explicit Blender(const WeightedRows& plane)
        : near(plane.rows[0]), far(plane.rows[plane.taps > 1]), rows(plane.rows), weights(plane.weights),
          taps(plane.taps), near_weight(_mm256_set1_epi16(weights[0])),
          far_weight(_mm256_set1_epi16(taps > 1 ? weights[1] : 0)) {}

    // 32 samples from u on; `two` says that there are no more than two taps.
    template <bool two>
    TARGET inline void blend(int u, __m256i (&sum)[2]) const {
        for (int h = 0; h < 2; ++h)
            sum[h] = _mm256_adds_epi16(times(near + u + 16 * h, near_weight), times(far + u + 16 * h, far_weight));
        for (int k = 2; !two && k < taps; ++k) {
            const __m256i weight = _mm256_set1_epi16(weights[k]);
            for (int h = 0; h < 2; ++h) sum[h] = _mm256_adds_epi16(sum[h], times(rows[k] + u + 16 * h, weight));
        }
    }

private:
    TARGET static __m256i times(const int16_t* row, __m256i weight) { return _mm256_mulhrs_epi16(load(row), weight); }

    const int16_t *near, *far;
    const int16_t* const* rows;
    const int16_t* weights;
    int taps;
    __m256i near_weight, far_weight;
};

// A colour matrix as vectors.
struct Factors {
    TARGET explicit Factors(const ColorMatrix& matrix) {
        for (int c = 0; c < 3; ++c) {
            for (int p = 0; p < 3; ++p) plane[c][p] = _mm256_set1_epi16(matrix.plane[c][p]);
            offset[c] = _mm256_set1_epi16(matrix.offset[c]);
        }
    }
    __m256i plane[3][3], offset[3];
};

// Sixteen pixels' samples to their channels, not yet clipped.
template <Colors colors>
TARGET inline void to_channels(__m256i y, __m256i cb, __m256i cr, const Factors& factors, __m256i (&channel)[3]) {
    const auto& f = factors.plane;
    if constexpr (colors == Colors::ycbcr) {
        const __m256i luma = _mm256_add_epi16(_mm256_mulhrs_epi16(y, f[0][0]), factors.offset[0]);
        channel[0] = _mm256_add_epi16(luma, _mm256_mulhrs_epi16(cr, f[0][2]));
        channel[1] = _mm256_add_epi16(_mm256_add_epi16(luma, _mm256_mulhrs_epi16(cb, f[1][1])),
                                      _mm256_mulhrs_epi16(cr, f[1][2]));
        channel[2] = _mm256_add_epi16(luma, _mm256_mulhrs_epi16(cb, f[2][1]));
    } else {
        for (int c = 0; c < 3; ++c) {
            __m256i sum = _mm256_mulhrs_epi16(y, f[c][0]);
            if constexpr (colors == Colors::any)
                sum = _mm256_adds_epi16(_mm256_adds_epi16(sum, _mm256_mulhrs_epi16(cb, f[c][1])),
                                        _mm256_mulhrs_epi16(cr, f[c][2]));
            channel[c] = _mm256_adds_epi16(sum, factors.offset[c]);
        }
    }
    for (__m256i& value : channel) value = _mm256_srai_epi16(value, 3);
}

// From which byte of its lane each byte of 32 packed pixels comes. The vector rg[h] has in lane l red and then green of
// the pixels 16 h + 8 l to 16 h + 8 l + 7, the vector b blue of those of h = 0 and then of h = 1. Of the pixels' six
// parts of 16 bytes, part 3 h is in the lower lane, part 3 h + 2 in the upper, and half of part 3 h + 1 in each.
struct Interleave {
    alignas(32) uint8_t outer_rg[32], outer_b[2][32];  // to parts 3 h and 3 h + 2
    alignas(32) uint8_t inner_rg[2][32], inner_b[32];  // to the halves of parts 1 and 4
};
constexpr uint8_t nowhere = 0x80;
constexpr Interleave interleave = [] {
    Interleave from{};
    for (int lane = 0; lane < 2; ++lane)
        for (int i = 0; i < 16; ++i) {
            const int to = 16 * lane + i, h = i / 8;
            const int outer = 32 * lane + i, pixel = outer / 3 % 8;
            const int inner = 16 + 8 * lane + i % 8, place = inner / 3 % 8;
            from.outer_rg[to] = outer % 3 < 2 ? uint8_t(outer % 3 * 8 + pixel) : nowhere;
            for (int k = 0; k < 2; ++k) from.outer_b[k][to] = outer % 3 == 2 ? uint8_t(8 * k + pixel) : nowhere;
            from.inner_rg[h][to] = inner % 3 < 2 ? uint8_t(inner % 3 * 8 + place) : nowhere;
            from.inner_rg[1 - h][to] = nowhere;
            from.inner_b[to] = inner % 3 == 2 ? uint8_t(8 * h + place) : nowhere;
        }
    return from;
}();

TARGET inline __m256i shuffled(__m256i bytes, const uint8_t (&from)[32]) {
    return _mm256_shuffle_epi8(bytes, _mm256_load_si256(reinterpret_cast<const __m256i*>(from)));
}

// Clips 32 pixels' channels and packs them to 96 bytes.
TARGET inline void pack_pixels(const __m256i (&channel)[2][3], __m256i (&packed)[3]) {
    __m256i rg[2], outer[2];
    const __m256i b = _mm256_packus_epi16(channel[0][2], channel[1][2]);
    for (int h = 0; h < 2; ++h) {
        rg[h] = _mm256_packus_epi16(channel[h][0], channel[h][1]);
        outer[h] = _mm256_or_si256(shuffled(rg[h], interleave.outer_rg), shuffled(b, interleave.outer_b[h]));
    }
    const __m256i inner_rg =
        _mm256_or_si256(shuffled(rg[0], interleave.inner_rg[0]), shuffled(rg[1], interleave.inner_rg[1]));
    const __m256i inner =
        _mm256_permute4x64_epi64(_mm256_or_si256(inner_rg, shuffled(b, interleave.inner_b)), 0xD8);
    packed[0] = _mm256_permute2x128_si256(outer[0], inner, 0x20);
    packed[1] = _mm256_permute2x128_si256(outer[0], outer[1], 0x21);
    packed[2] = _mm256_permute2x128_si256(inner, outer[1], 0x31);
}

// 32 pixels from u on, packed.
template <Colors colors, bool two>
TARGET inline void blend_pixels(const Blender (&planes)[3], const Factors& factors, int u, __m256i (&packed)[3]) {
    __m256i samples[3][2] = {}, channel[2][3];
    for (int p = 0; p < (colors == Colors::grey ? 1 : 3); ++p) planes[p].blend<two>(u, samples[p]);
    for (int h = 0; h < 2; ++h) to_channels<colors>(samples[0][h], samples[1][h], samples[2][h], factors, channel[h]);
    pack_pixels(channel, packed);
}

template <Colors colors, bool two>
TARGET void blend_as(const WeightedRows* rows, const ColorMatrix& matrix, int width, uint8_t* rgb, uint8_t* canvas) {
    constexpr bool grey = colors == Colors::grey;
    const Factors factors(matrix);
    const Blender planes[3] = {Blender(rows[0]), Blender(rows[grey ? 0 : 1]), Blender(rows[grey ? 0 : 2])};
    const int whole = width / 32 * 32;
    __m256i packed[3];
    if (whole < width) {  // first, since reading this soon after stores past the caches would wait for them
        blend_pixels<colors, two>(planes, factors, whole, packed);
        std::memcpy(rgb + 3 * whole, packed, size_t(3) * (width - whole));
    }
    for (int u = 0; u < whole; u += 32) {
        blend_pixels<colors, two>(planes, factors, u, packed);
        auto* const out = reinterpret_cast<__m256i*>((canvas ? canvas : rgb) + 3 * u);
        for (int i = 0; i < 3; ++i) canvas ? _mm256_stream_si256(out + i, packed[i]) : store(out + i, packed[i]);
    }
}

template <bool two>
void blend_rows(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb,
                uint8_t* canvas) {
    if (count == 1) return blend_as<Colors::grey, two>(planes, matrix, width, rgb, canvas);
    shares_luma(matrix) ? blend_as<Colors::ycbcr, two>(planes, matrix, width, rgb, canvas)
                        : blend_as<Colors::any, two>(planes, matrix, width, rgb, canvas);
}

int blend(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb, uint8_t* canvas) {
    if (reinterpret_cast<uintptr_t>(canvas) % 32) canvas = nullptr;
    const bool two = std::all_of(planes, planes + count, [](const WeightedRows& plane) { return plane.taps <= 2; });
    two ? blend_rows<true>(planes, count, matrix, width, rgb, canvas)
        : blend_rows<false>(planes, count, matrix, width, rgb, canvas);
    return canvas ? width / 32 * 32 : 0;
}

TARGET void stream(uint8_t* to, const uint8_t* from, size_t size) {
    const size_t head = std::min(size, size_t(-reinterpret_cast<uintptr_t>(to) & 31));
    std::memcpy(to, from, head);
    size_t i = head;
    for (; i + 32 <= size; i += 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), load(from + i));
    std::memcpy(to + i, from + i, size - i);
}

}  // namespace

const Kernels avx2_kernels = {horizontal, blend, stream, split, convert, decode_blocks,
                              inverse_dct, apply_signs, set_bits, huffman_decode_bmi2, decode_mcus_bmi2};

}  // namespace fastload
#endif

// AVX-512 kernels (with VBMI and VNNI, Ice Lake and later); scalar.cpp says what they compute.
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // in GCC 12's own header of intrinsics, PR 105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "dct_blocks.h"
#include "huffman.h"
#include "jpeg_scan.h"
#include "kernels.h"
#include "pixel_format.h"
#include "resample.h"

#define TARGET \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,bmi,bmi2,popcnt")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) inline

#include "dct_avx512.h"
#include "samples_avx512.h"
#include "set_bits.h"

namespace fastload {
namespace {

TARGET inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

// Stores may alias anything, so what a loop reads of its tables is copied to locals first.

TARGET void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m512i center = _mm512_set1_epi8(-128);
    const int32_t* base = table.base32.data();
    const uint8_t *const index = table.index32.data(), *const weight = table.weight.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 32, ++base) {
        const __m512i samples = _mm512_xor_si512(load(row + *base), center);
        const __m512i pairs = _mm512_permutexvar_epi8(load(index + 2 * u), samples);
        _mm512_storeu_si512(out + u, _mm512_maddubs_epi16(load(weight + 2 * u), pairs));
    }
}

template <bool shuffles>
TARGET void horizontal_many(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m512i center = _mm512_set1_epi8(-128);
    const int groups = table.taps / 4, size = table.axis.size;
    const uint8_t* weights = table.weights.data();
    const float* const norm = table.norm.data();
    for (int u = 0; u < size; u += 16) {
        const __m512i where = load(shuffles ? static_cast<const void*>(&table.index16[4 * u]) : &table.start[u]);
        const uint8_t* samples = shuffles ? row + table.base16[u / 16] : row;
        __m512i sum = _mm512_setzero_si512();
        for (int g = 0; g < groups; ++g, samples += 4, weights += 64) {
            const __m512i taps = shuffles ? _mm512_permutexvar_epi8(where, load(samples))
                                          : _mm512_i32gather_epi32(where, samples, 1);
            sum = _mm512_dpbusd_epi32(sum, load(weights), _mm512_xor_si512(taps, center));
        }
        const __m512i scaled = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(norm + u)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + u), _mm512_cvtsepi32_epi16(scaled));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (table.taps == 2) return horizontal_two(row, table, out);
    table.shuffles16 ? horizontal_many<true>(row, table, out) : horizontal_many<false>(row, table, out);
}

// Blends the rows of a plane.
struct Blender {
    TARGET explicit Blender(const WeightedRows& plane)
        : near(plane.rows[0]), far(plane.rows[plane.taps > 1]), rows(plane.rows), weights(plane.weights),
          taps(plane.taps), near_weight(_mm512_set1_epi16(weights[0])),
          far_weight(_mm512_set1_epi16(taps > 1 ? weights[1] : 0)) {}

    // 64 samples from u on; `two` says that there are no more than two taps. With more, general registers are too few
    // to keep `near` and `far` as well, so these are read again.
    template <bool two>
    TARGET inline void blend(int u, __m512i (&sum)[2]) const {
        const int16_t* const first = two ? near : rows[0];
        const int16_t* const second = two ? far : rows[taps > 1];
        for (int h = 0; h < 2; ++h)
            sum[h] = _mm512_adds_epi16(times(first + u + 32 * h, near_weight), times(second + u + 32 * h, far_weight));
        for (int k = 2; !two && k < taps; ++k) {
            const __m512i weight = _mm512_set1_epi16(weights[k]);
            for (int h = 0; h < 2; ++h) sum[h] = _mm512_adds_epi16(sum[h], times(rows[k] + u + 32 * h, weight));
        }
    }

private:
    TARGET static __m512i times(const int16_t* row, __m512i weight) { return _mm512_mulhrs_epi16(load(row), weight); }

    const int16_t *near, *far;
    const int16_t* const* rows;
    const int16_t* weights;
    int taps;
    __m512i near_weight, far_weight;
};

// A colour matrix as vectors.
struct Factors {
    TARGET explicit Factors(const ColorMatrix& matrix) {
        for (int c = 0; c < 3; ++c) {
            for (int p = 0; p < 3; ++p) plane[c][p] = _mm512_set1_epi16(matrix.plane[c][p]);
            offset[c] = _mm512_set1_epi16(matrix.offset[c]);
        }
    }
    __m512i plane[3][3], offset[3];
};

// 32 pixels' samples to their channels, not yet clipped.
template <Colors colors>
TARGET inline void to_channels(__m512i y, __m512i cb, __m512i cr, const Factors& factors, __m512i (&channel)[3]) {
    const auto& f = factors.plane;
    if constexpr (colors == Colors::ycbcr) {
        const __m512i luma = _mm512_add_epi16(_mm512_mulhrs_epi16(y, f[0][0]), factors.offset[0]);
        channel[0] = _mm512_add_epi16(luma, _mm512_mulhrs_epi16(cr, f[0][2]));
        channel[1] = _mm512_add_epi16(_mm512_add_epi16(luma, _mm512_mulhrs_epi16(cb, f[1][1])),
                                      _mm512_mulhrs_epi16(cr, f[1][2]));
        channel[2] = _mm512_add_epi16(luma, _mm512_mulhrs_epi16(cb, f[2][1]));
    } else {
        for (int c = 0; c < 3; ++c) {
            __m512i sum = _mm512_mulhrs_epi16(y, f[c][0]);
            if constexpr (colors == Colors::any)
                sum = _mm512_adds_epi16(_mm512_adds_epi16(sum, _mm512_mulhrs_epi16(cb, f[c][1])),
                                        _mm512_mulhrs_epi16(cr, f[c][2]));
            channel[c] = _mm512_adds_epi16(sum, factors.offset[c]);
        }
    }
    for (__m512i& value : channel) value = _mm512_srai_epi16(value, 3);
}

// From where each byte of 64 packed pixels comes. The vector rg[h] has in lane l red and then green of the pixels
// 32 h + 8 l to 32 h + 8 l + 7, the vector b blue of those of h = 0 and then of h = 1.
struct Interleave {
    alignas(64) uint8_t red_green[3][64];  // [third of the output]; 64 and above: rg[1]
    alignas(64) uint8_t blue[3][64];
    uint64_t is_blue[3];
};
constexpr Interleave interleave = [] {
    Interleave from{};
    for (int j = 0; j < 192; ++j) {
        const int pixel = j / 3, c = j % 3, h = pixel / 32, place = pixel % 32 / 8 * 16 + pixel % 8;
        from.red_green[j / 64][j % 64] = uint8_t(64 * h + place + (c == 1 ? 8 : 0));
        from.blue[j / 64][j % 64] = uint8_t(place + 8 * h);
        from.is_blue[j / 64] |= uint64_t(c == 2) << j % 64;
    }
    return from;
}();

// Clips 64 pixels' channels and stores the first `size` of their 192 bytes.
TARGET inline void store_pixels(const __m512i (&channel)[2][3], int size, uint8_t* rgb) {
    __m512i rg[2];
    for (int h = 0; h < 2; ++h) rg[h] = _mm512_packus_epi16(channel[h][0], channel[h][1]);
    const __m512i b = _mm512_packus_epi16(channel[0][2], channel[1][2]);
    for (int third = 0; third < 3; ++third) {
        // The outer thirds have one half's pixels only; permuting one vector takes the lower six bits of the places.
        const __m512i places = load(interleave.red_green[third]);
        const __m512i red_green = third == 1 ? _mm512_permutex2var_epi8(rg[0], places, rg[1])
                                             : _mm512_permutexvar_epi8(places, rg[third / 2]);
        const __m512i pixels = _mm512_mask_permutexvar_epi8(red_green, interleave.is_blue[third],
                                                            load(interleave.blue[third]), b);
        const int left = size - 64 * third;
        if (left >= 64)
            _mm512_storeu_si512(rgb + 64 * third, pixels);
        else if (left > 0)
            _mm512_mask_storeu_epi8(rgb + 64 * third, (__mmask64{1} << left) - 1, pixels);
    }
}

template <Colors colors, bool two>
TARGET void blend_as(const WeightedRows* planes, const ColorMatrix& matrix, int width, uint8_t* rgb) {
    constexpr bool grey = colors == Colors::grey;
    const Factors factors(matrix);
    const Blender luma(planes[0]), cb(planes[grey ? 0 : 1]), cr(planes[grey ? 0 : 2]);
    for (int u = 0; u < width; u += 64) {
        __m512i y[2], blue[2] = {}, red[2] = {}, channel[2][3];
        luma.blend<two>(u, y);
        if constexpr (!grey) {
            cb.blend<two>(u, blue);
            cr.blend<two>(u, red);
        }
        for (int h = 0; h < 2; ++h) to_channels<colors>(y[h], blue[h], red[h], factors, channel[h]);
        store_pixels(channel, 3 * (width - u), rgb + 3 * u);
    }
}

template <bool two>
void blend_rows(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb) {
    if (count == 1) return blend_as<Colors::grey, two>(planes, matrix, width, rgb);
    shares_luma(matrix) ? blend_as<Colors::ycbcr, two>(planes, matrix, width, rgb)
                        : blend_as<Colors::any, two>(planes, matrix, width, rgb);
}

int blend(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb,
          uint8_t* /* canvas */) {
    const bool two = std::all_of(planes, planes + count, [](const WeightedRows& plane) { return plane.taps <= 2; });
    two ? blend_rows<true>(planes, count, matrix, width, rgb) : blend_rows<false>(planes, count, matrix, width, rgb);
    return 0;
}

TARGET void stream(uint8_t* to, const uint8_t* from, size_t size) {
    const size_t head = std::min(size, size_t(-reinterpret_cast<uintptr_t>(to) & 63));
    std::memcpy(to, from, head);
    size_t i = head;
    for (; i + 64 <= size; i += 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), load(from + i));
    std::memcpy(to + i, from + i, size - i);
}

}  // namespace

const Kernels avx512_kernels = {horizontal, blend, stream, split, convert, decode_blocks,
                                inverse_dct, apply_signs, set_bits, huffman_decode_bmi2, decode_mcus_bmi2};

}  // namespace fastload
#endif

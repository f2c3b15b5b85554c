// AVX-512 kernels (VBMI, VNNI); kernels_scalar.cpp says what they compute.
#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics, PR 105593
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "resample.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")))

namespace fastload {
namespace {

AVX512 inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }

// Stores may alias anything, so what a loop reads of its tables is copied to locals first.

AVX512 void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m512i center = _mm512_set1_epi8(-128);
    const int32_t* const base = table.base32.data();
    const uint8_t *const index = table.index32.data(), *const weight = table.weight.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 32) {
        const __m512i samples = _mm512_xor_si512(load(row + base[u / 32]), center);
        const __m512i pairs = _mm512_permutexvar_epi8(load(index + 2 * u), samples);
        _mm512_storeu_si512(out + u, _mm512_maddubs_epi16(load(weight + 2 * u), pairs));
    }
}

template <bool shuffles>
AVX512 void horizontal_many(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
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

AVX512 inline __m512i times(const int16_t* row, __m512i weight) { return _mm512_mulhrs_epi16(load(row), weight); }

AVX512 void vertical(const int16_t* const* rows, const int16_t* weights, int taps, int width, int16_t* out) {
    const int16_t *const near = rows[0], *const far = rows[taps > 1];
    const __m512i near_weight = _mm512_set1_epi16(weights[0]);
    const __m512i far_weight = _mm512_set1_epi16(taps > 1 ? weights[1] : 0);
    for (int u = 0; u < width; u += 32) {
        __m512i sum = _mm512_adds_epi16(times(near + u, near_weight), times(far + u, far_weight));
        for (int k = 2; k < taps; ++k)
            sum = _mm512_adds_epi16(sum, times(rows[k] + u, _mm512_set1_epi16(weights[k])));
        _mm512_storeu_si512(out + u, sum);
    }
}

// A colour matrix in registers.
struct Factors {
    AVX512 explicit Factors(const ColorMatrix& matrix) {
        for (int c = 0; c < 3; ++c) {
            for (int p = 0; p < 3; ++p) plane[c][p] = _mm512_set1_epi16(matrix.plane[c][p]);
            offset[c] = _mm512_set1_epi16(matrix.offset[c]);
        }
    }
    __m512i plane[3][3], offset[3];
};

// One channel of 64 pixels, in the order that packing two vectors leaves: see Interleave.
template <int planes>
AVX512 inline __m512i channel(const __m512i samples[3][2], const Factors& factors, int c) {
    __m512i half[2];
    for (int h = 0; h < 2; ++h) {
        __m512i sum = _mm512_mulhrs_epi16(samples[0][h], factors.plane[c][0]);
        for (int p = 1; p < planes; ++p)
            sum = _mm512_adds_epi16(sum, _mm512_mulhrs_epi16(samples[p][h], factors.plane[c][p]));
        half[h] = _mm512_srai_epi16(_mm512_adds_epi16(sum, factors.offset[c]), 3);
    }
    return _mm512_packus_epi16(half[0], half[1]);
}

// Byte j of 64 packed pixels is pixel j / 3 of channel j % 3; packing took 8 pixels of either half in turn.
struct Interleave {
    alignas(64) uint8_t red_green[3][64];  // [third of the output]; 64 and above: green
    alignas(64) uint8_t blue[3][64];
    Interleave() {
        for (int j = 0; j < 192; ++j) {
            const int pixel = j / 3, c = j % 3, half = pixel / 32;
            const int place = pixel % 32 / 8 * 16 + half * 8 + pixel % 8;
            red_green[j / 64][j % 64] = uint8_t(c == 1 ? 64 + place : place);
            blue[j / 64][j % 64] = uint8_t(place);
        }
    }
};
const Interleave interleave;
constexpr uint64_t is_blue[3] = {0x4924924924924924, 0x2492492492492492, 0x9249249249249249};  // bytes with j % 3 == 2

template <int count>
AVX512 void color_of(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    const Factors factors(matrix);
    const int16_t* const rows[3] = {planes[0], planes[1], planes[2]};
    __m512i red_green[3], blue[3];
    for (int third = 0; third < 3; ++third) {
        red_green[third] = load(interleave.red_green[third]);
        blue[third] = load(interleave.blue[third]);
    }
    for (int u = 0; u < width; u += 64) {
        __m512i samples[3][2];
        for (int p = 0; p < count; ++p)
            for (int h = 0; h < 2; ++h) samples[p][h] = load(rows[p] + u + 32 * h);
        const __m512i r = channel<count>(samples, factors, 0);
        const __m512i g = channel<count>(samples, factors, 1);
        const __m512i b = channel<count>(samples, factors, 2);
        for (int third = 0; third < 3; ++third) {
            const int left = std::clamp(3 * (width - u) - 64 * third, 0, 64);
            const __mmask64 mask = left == 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
            const __m512i rg = _mm512_permutex2var_epi8(r, red_green[third], g);
            const __m512i packed = _mm512_mask_permutexvar_epi8(rg, is_blue[third], blue[third], b);
            _mm512_mask_storeu_epi8(rgb + 3 * u + 64 * third, mask, packed);
        }
    }
}

void color(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    planes[1] ? color_of<3>(planes, matrix, width, rgb) : color_of<1>(planes, matrix, width, rgb);
}

AVX512 void stream(uint8_t* to, const uint8_t* from, size_t size) {
    const size_t head = std::min(size, size_t(-reinterpret_cast<uintptr_t>(to) & 63));
    std::memcpy(to, from, head);
    size_t i = head;
    for (; i + 64 <= size; i += 64) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), load(from + i));
    std::memcpy(to + i, from + i, size - i);
}

}  // namespace

const Kernels avx512_kernels = {horizontal, vertical_then_color<vertical, color>, stream};

}  // namespace fastload
#endif

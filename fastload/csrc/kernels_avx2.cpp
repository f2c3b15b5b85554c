// AVX2 kernels; kernels_scalar.cpp says what they compute.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "resample.h"

#define AVX2 __attribute__((target("avx2")))

namespace fastload {
namespace {

AVX2 inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
AVX2 inline __m128i load_half(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
AVX2 inline void store(void* p, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(p), value); }

// Stores may alias anything, so what a loop reads of its tables is copied to locals first.

AVX2 void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i center = _mm256_set1_epi8(-128);
    const int32_t* const base = table.base8.data();
    const uint8_t *const index = table.index8.data(), *const weight = table.weight.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 16) {
        const __m256i samples = _mm256_inserti128_si256(_mm256_castsi128_si256(load_half(row + base[u / 8])),
                                                        load_half(row + base[u / 8 + 1]), 1);
        const __m256i pairs = _mm256_shuffle_epi8(_mm256_xor_si256(samples, center), load(index + 2 * u));
        store(out + u, _mm256_maddubs_epi16(load(weight + 2 * u), pairs));
    }
}

// Four taps of eight outputs: even and odd taps apart, since a pair's products may exceed 16 bits.
AVX2 inline __m256i dot(__m256i sum, __m256i weights, __m256i samples) {
    const __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(samples, 8), 8),
                                           _mm256_and_si256(weights, _mm256_set1_epi16(255)));
    const __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16(samples, 8), _mm256_srli_epi16(weights, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}

template <bool shuffles>
AVX2 void horizontal_many(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
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

AVX2 inline __m256i times(const int16_t* row, __m256i weight) { return _mm256_mulhrs_epi16(load(row), weight); }

AVX2 void vertical(const int16_t* const* rows, const int16_t* weights, int taps, int width, int16_t* out) {
    const int16_t *const near = rows[0], *const far = rows[taps > 1];
    const __m256i near_weight = _mm256_set1_epi16(weights[0]);
    const __m256i far_weight = _mm256_set1_epi16(taps > 1 ? weights[1] : 0);
    for (int u = 0; u < width; u += 16) {
        __m256i sum = _mm256_adds_epi16(times(near + u, near_weight), times(far + u, far_weight));
        for (int k = 2; k < taps; ++k)
            sum = _mm256_adds_epi16(sum, times(rows[k] + u, _mm256_set1_epi16(weights[k])));
        store(out + u, sum);
    }
}

// A colour matrix as vectors.
struct Factors {
    AVX2 explicit Factors(const ColorMatrix& matrix) {
        for (int c = 0; c < 3; ++c) {
            for (int p = 0; p < 3; ++p) plane[c][p] = _mm256_set1_epi16(matrix.plane[c][p]);
            offset[c] = _mm256_set1_epi16(matrix.offset[c]);
        }
    }
    __m256i plane[3][3], offset[3];
};

// One channel of 32 pixels, in order.
template <int planes>
AVX2 inline __m256i channel(const __m256i samples[3][2], const Factors& factors, int c) {
    __m256i half[2];
    for (int h = 0; h < 2; ++h) {
        __m256i sum = _mm256_mulhrs_epi16(samples[0][h], factors.plane[c][0]);
        for (int p = 1; p < planes; ++p)
            sum = _mm256_adds_epi16(sum, _mm256_mulhrs_epi16(samples[p][h], factors.plane[c][p]));
        half[h] = _mm256_srai_epi16(_mm256_adds_epi16(sum, factors.offset[c]), 3);
    }
    return _mm256_permute4x64_epi64(_mm256_packus_epi16(half[0], half[1]), 0xD8);
}

// Where byte j of 16 packed pixels comes from: pixel j / 3 of channel j % 3.
struct Interleave {
    alignas(16) uint8_t from[3][3][16];  // [third of the output][channel][byte]; 128: another channel's byte
    Interleave() {
        for (int third = 0; third < 3; ++third)
            for (int c = 0; c < 3; ++c)
                for (int i = 0; i < 16; ++i) {
                    const int j = 16 * third + i;
                    from[third][c][i] = j % 3 == c ? uint8_t(j / 3) : 128;
                }
    }
};
const Interleave interleave;

AVX2 inline __m256i third_of(int third, __m256i r, __m256i g, __m256i b) {
    __m256i shuffled[3] = {r, g, b};
    for (int c = 0; c < 3; ++c)
        shuffled[c] = _mm256_shuffle_epi8(
            shuffled[c],
            _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(interleave.from[third][c]))));
    return _mm256_or_si256(_mm256_or_si256(shuffled[0], shuffled[1]), shuffled[2]);
}

template <int count>
AVX2 void color_of(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    const Factors factors(matrix);
    const int16_t* const rows[3] = {planes[0], planes[1], planes[2]};
    for (int u = 0; u < width; u += 32) {
        __m256i samples[3][2];
        for (int p = 0; p < count; ++p)
            for (int h = 0; h < 2; ++h) samples[p][h] = load(rows[p] + u + 16 * h);
        const __m256i r = channel<count>(samples, factors, 0);
        const __m256i g = channel<count>(samples, factors, 1);
        const __m256i b = channel<count>(samples, factors, 2);
        const __m256i x = third_of(0, r, g, b), y = third_of(1, r, g, b), z = third_of(2, r, g, b);
        alignas(32) uint8_t rest[96];
        uint8_t* const out = width - u >= 32 ? rgb + 3 * u : rest;
        store(out, _mm256_permute2x128_si256(x, y, 0x20));
        store(out + 32, _mm256_permute2x128_si256(z, x, 0x30));
        store(out + 64, _mm256_permute2x128_si256(y, z, 0x31));
        // cppcheck-suppress uninitvar  // `store` has filled it
        if (out == rest) std::memcpy(rgb + 3 * u, rest, size_t(3) * (width - u));
    }
}

void color(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    planes[1] ? color_of<3>(planes, matrix, width, rgb) : color_of<1>(planes, matrix, width, rgb);
}

AVX2 void stream(uint8_t* to, const uint8_t* from, size_t size) {
    const size_t head = std::min(size, size_t(-reinterpret_cast<uintptr_t>(to) & 31));
    std::memcpy(to, from, head);
    size_t i = head;
    for (; i + 32 <= size; i += 32) _mm256_stream_si256(reinterpret_cast<__m256i*>(to + i), load(from + i));
    std::memcpy(to + i, from + i, size - i);
}

}  // namespace

const Kernels avx2_kernels = {horizontal, vertical, color, stream};

}  // namespace fastload
#endif

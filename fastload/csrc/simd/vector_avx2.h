// A vector of AVX2: two lanes of 16 bytes. vector_avx512.h has the same operations, each of an instruction or two; the
// kernels' sources are written in them. A number after a name is the width in bits of what it works on.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#define TARGET __attribute__((target("avx2,fma,f16c,bmi,bmi2,popcnt")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) inline

namespace fastload {
namespace {

using Vector = __m256i;
using Half = __m128i;
using Floats = __m256;
constexpr int lanes = sizeof(Vector) / 16;
constexpr int block_shift = 3;  // a vector has 1 << block_shift words of 32 bits

TARGET_INLINE Vector load(const void* p) { return _mm256_loadu_si256(static_cast<const Vector*>(p)); }
TARGET_INLINE __m128i load_lane(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
TARGET_INLINE void store(void* p, Vector v) { _mm256_storeu_si256(static_cast<Vector*>(p), v); }
TARGET_INLINE void store_past_caches(void* p, Vector v) { _mm256_stream_si256(static_cast<Vector*>(p), v); }
TARGET_INLINE void store_bytes(void* p, Vector v, int count) { std::memcpy(p, &v, size_t(count)); }

TARGET_INLINE Vector zeros() { return _mm256_setzero_si256(); }
TARGET_INLINE Vector all8(int value) { return _mm256_set1_epi8(char(value)); }
TARGET_INLINE Vector all16(int value) { return _mm256_set1_epi16(int16_t(value)); }
TARGET_INLINE Vector all32(int value) { return _mm256_set1_epi32(value); }
TARGET_INLINE Vector all_lanes(__m128i lane) { return _mm256_broadcastsi128_si256(lane); }

TARGET_INLINE Vector load_pair(const void* low, const void* high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_lane(low)), load_lane(high), 1);
}
// Lanes from `first` on, `step` bytes apart.
TARGET_INLINE Vector load_lanes(const uint8_t* first, ptrdiff_t step) { return load_pair(first, first + step); }

TARGET_INLINE Vector bit_xor(Vector a, Vector b) { return _mm256_xor_si256(a, b); }
TARGET_INLINE Vector bit_and(Vector a, Vector b) { return _mm256_and_si256(a, b); }
TARGET_INLINE Vector subtract8(Vector a, Vector b) { return _mm256_sub_epi8(a, b); }
TARGET_INLINE Vector add16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
TARGET_INLINE Vector add_saturated16(Vector a, Vector b) { return _mm256_adds_epi16(a, b); }
TARGET_INLINE Vector subtract16(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
TARGET_INLINE Vector subtract_saturated_unsigned16(Vector a, Vector b) { return _mm256_subs_epu16(a, b); }
TARGET_INLINE Vector add32(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
TARGET_INLINE Vector subtract32(Vector a, Vector b) { return _mm256_sub_epi32(a, b); }
TARGET_INLINE Vector multiply32(Vector a, Vector b) { return _mm256_mullo_epi32(a, b); }
TARGET_INLINE Vector multiply16(Vector a, Vector b) { return _mm256_mullo_epi16(a, b); }
// (a * b + 0x4000) >> 15
TARGET_INLINE Vector multiply_high16(Vector a, Vector b) { return _mm256_mulhrs_epi16(a, b); }
TARGET_INLINE Vector multiply_high_unsigned16(Vector a, Vector b) { return _mm256_mulhi_epu16(a, b); }
// a * b of two neighbours, summed in 32 bits
TARGET_INLINE Vector dot16(Vector a, Vector b) { return _mm256_madd_epi16(a, b); }
TARGET_INLINE Vector add_dot16(Vector sum, Vector a, Vector b) { return add32(sum, dot16(a, b)); }
// a * b of two neighbours, unsigned times signed, summed in 16 bits
TARGET_INLINE Vector dot8(Vector a, Vector b) { return _mm256_maddubs_epi16(a, b); }
TARGET_INLINE Vector absolute16(Vector v) { return _mm256_abs_epi16(v); }
TARGET_INLINE Vector min_unsigned16(Vector a, Vector b) { return _mm256_min_epu16(a, b); }
TARGET_INLINE Vector max_unsigned16(Vector a, Vector b) { return _mm256_max_epu16(a, b); }
TARGET_INLINE Vector min_unsigned8(Vector a, Vector b) { return _mm256_min_epu8(a, b); }
TARGET_INLINE Vector max_unsigned8(Vector a, Vector b) { return _mm256_max_epu8(a, b); }
TARGET_INLINE Vector min8(Vector a, Vector b) { return _mm256_min_epi8(a, b); }
TARGET_INLINE Vector min32(Vector a, Vector b) { return _mm256_min_epi32(a, b); }
TARGET_INLINE Vector max32(Vector a, Vector b) { return _mm256_max_epi32(a, b); }
TARGET_INLINE Vector shift_left16(Vector v, int bits) { return _mm256_slli_epi16(v, bits); }
TARGET_INLINE Vector shift_right16(Vector v, int bits) { return _mm256_srai_epi16(v, bits); }
TARGET_INLINE Vector shift_right_unsigned16(Vector v, int bits) { return _mm256_srli_epi16(v, bits); }
TARGET_INLINE Vector shift_right32(Vector v, __m128i bits) { return _mm256_sra_epi32(v, bits); }
TARGET_INLINE Vector shift_left32(Vector v, int bits) { return _mm256_slli_epi32(v, bits); }
TARGET_INLINE Vector shift_right32(Vector v, int bits) { return _mm256_srai_epi32(v, bits); }
TARGET_INLINE Vector shift_right_unsigned32(Vector v, int bits) { return _mm256_srli_epi32(v, bits); }

// Within lanes.
TARGET_INLINE Vector pack32(Vector a, Vector b) { return _mm256_packs_epi32(a, b); }
TARGET_INLINE Vector pack16(Vector a, Vector b) { return _mm256_packs_epi16(a, b); }
TARGET_INLINE Vector pack_unsigned16(Vector a, Vector b) { return _mm256_packus_epi16(a, b); }
TARGET_INLINE Vector unpack_low8(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
TARGET_INLINE Vector unpack_high8(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
TARGET_INLINE Vector unpack_low16(Vector a, Vector b) { return _mm256_unpacklo_epi16(a, b); }
TARGET_INLINE Vector unpack_high16(Vector a, Vector b) { return _mm256_unpackhi_epi16(a, b); }
TARGET_INLINE Vector unpack_low64(Vector a, Vector b) { return _mm256_unpacklo_epi64(a, b); }
TARGET_INLINE Vector unpack_high64(Vector a, Vector b) { return _mm256_unpackhi_epi64(a, b); }
TARGET_INLINE Vector shuffle8(Vector v, Vector from) { return _mm256_shuffle_epi8(v, from); }
template <int selection>  // as of _mm_shuffle_ps
TARGET_INLINE Vector select32(Vector a, Vector b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), selection));
}

// Halves of a vector: positions of as many 64-bit words.
TARGET_INLINE Vector counting32() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
TARGET_INLINE Half lower_half(Vector v) { return _mm256_castsi256_si128(v); }
TARGET_INLINE Half upper_half(Vector v) { return _mm256_extracti128_si256(v, 1); }
TARGET_INLINE Half all32_half(int value) { return _mm_set1_epi32(value); }
TARGET_INLINE Half add32(Half a, Half b) { return _mm_add_epi32(a, b); }
TARGET_INLINE Half multiply32(Half a, Half b) { return _mm_mullo_epi32(a, b); }
TARGET_INLINE Half shift_right32(Half v, int bits) { return _mm_srai_epi32(v, bits); }
TARGET_INLINE Vector widen32(Half v) { return _mm256_cvtepu32_epi64(v); }
// 8 bytes from base + place[0] and from base + place[1]. Loads are faster than gathers on all CPUs measured.
TARGET_INLINE __m128i load_two(const uint8_t* base, uint64_t place) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(base + uint32_t(place)));
    return _mm_castps_si128(
        _mm_loadh_pi(_mm_castsi128_ps(first), reinterpret_cast<const __m64*>(base + (place >> 32))));
}
TARGET_INLINE __m256i load_four(const uint8_t* base, __m128i place) {
    const auto low = uint64_t(_mm_cvtsi128_si64(place)), high = uint64_t(_mm_extract_epi64(place, 1));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_two(base, low)), load_two(base, high), 1);
}
TARGET_INLINE Vector load_places(const uint8_t* base, Half place) { return load_four(base, place); }

// A bit for each byte.
TARGET_INLINE uint64_t equal8(Vector v, int value) {
    return uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, all8(value))));
}
// Bytes of `yes` where a and b are equal, else of `no`.
TARGET_INLINE Vector select_equal8(Vector a, Vector b, Vector yes, Vector no) {
    return _mm256_blendv_epi8(no, yes, _mm256_cmpeq_epi8(a, b));
}
TARGET_INLINE int largest32(Vector v) {
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
// The first word of each lane, from every eighth of `words`.
TARGET_INLINE Vector replace_first16(Vector v, const int16_t* words) {
    return _mm256_blend_epi16(v, load(words), 0x01);
}

TARGET_INLINE Floats load_floats(const float* p) { return _mm256_loadu_ps(p); }
TARGET_INLINE Floats all_floats(float value) { return _mm256_set1_ps(value); }
TARGET_INLINE Floats floats_of_bytes(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
TARGET_INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
TARGET_INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
// a * b + c, rounded once
TARGET_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
// c - a * b, rounded once
TARGET_INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, c); }
TARGET_INLINE Vector bits_of(Floats v) { return _mm256_castps_si256(v); }
TARGET_INLINE Vector float16_of(Floats low, Floats high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
                                   _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
}
// The upper half of each 32 bits.
TARGET_INLINE Vector upper_halves(Vector low, Vector high) {
    const Vector packed = _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16));
    return _mm256_permute4x64_epi64(packed, 0xd8);
}

}  // namespace
}  // namespace fastload

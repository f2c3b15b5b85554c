// A vector of AVX-512 (Ice Lake and later): four lanes of 16 bytes. See vector_avx2.h.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // in GCC 12's own header of intrinsics, PR 105593
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#define TARGET \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,bmi,bmi2,popcnt")))
#define TARGET_INLINE TARGET __attribute__((always_inline)) inline

namespace fastload {
namespace {

using Vector = __m512i;
using Half = __m256i;
using Floats = __m512;
constexpr int lanes = sizeof(Vector) / 16;
constexpr int block_shift = 4;

TARGET_INLINE Vector load(const void* p) { return _mm512_loadu_si512(p); }
TARGET_INLINE __m128i load_lane(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
TARGET_INLINE void store(void* p, Vector v) { _mm512_storeu_si512(p, v); }
TARGET_INLINE void store_past_caches(void* p, Vector v) { _mm512_stream_si512(static_cast<Vector*>(p), v); }
TARGET_INLINE void store_bytes(void* p, Vector v, int count) {
    _mm512_mask_storeu_epi8(p, count == 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1, v);
}

TARGET_INLINE Vector zeros() { return _mm512_setzero_si512(); }
TARGET_INLINE Vector all8(int value) { return _mm512_set1_epi8(char(value)); }
TARGET_INLINE Vector all16(int value) { return _mm512_set1_epi16(int16_t(value)); }
TARGET_INLINE Vector all32(int value) { return _mm512_set1_epi32(value); }
TARGET_INLINE Vector all_lanes(__m128i lane) { return _mm512_broadcast_i32x4(lane); }

TARGET_INLINE Vector load_lanes(const uint8_t* first, ptrdiff_t step) {
    Vector four = _mm512_castsi128_si512(load_lane(first));
    four = _mm512_inserti32x4(four, load_lane(first + step), 1);
    four = _mm512_inserti32x4(four, load_lane(first + 2 * step), 2);
    return _mm512_inserti32x4(four, load_lane(first + 3 * step), 3);
}

TARGET_INLINE Vector bit_xor(Vector a, Vector b) { return _mm512_xor_si512(a, b); }
TARGET_INLINE Vector bit_and(Vector a, Vector b) { return _mm512_and_si512(a, b); }
TARGET_INLINE Vector subtract8(Vector a, Vector b) { return _mm512_sub_epi8(a, b); }
TARGET_INLINE Vector add16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
TARGET_INLINE Vector add_saturated16(Vector a, Vector b) { return _mm512_adds_epi16(a, b); }
TARGET_INLINE Vector subtract16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
TARGET_INLINE Vector subtract_saturated_unsigned16(Vector a, Vector b) { return _mm512_subs_epu16(a, b); }
TARGET_INLINE Vector add32(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
TARGET_INLINE Vector subtract32(Vector a, Vector b) { return _mm512_sub_epi32(a, b); }
TARGET_INLINE Vector multiply32(Vector a, Vector b) { return _mm512_mullo_epi32(a, b); }
TARGET_INLINE Vector multiply16(Vector a, Vector b) { return _mm512_mullo_epi16(a, b); }
TARGET_INLINE Vector multiply_high16(Vector a, Vector b) { return _mm512_mulhrs_epi16(a, b); }
TARGET_INLINE Vector multiply_high_unsigned16(Vector a, Vector b) { return _mm512_mulhi_epu16(a, b); }
TARGET_INLINE Vector dot16(Vector a, Vector b) { return _mm512_madd_epi16(a, b); }
TARGET_INLINE Vector add_dot16(Vector sum, Vector a, Vector b) { return _mm512_dpwssd_epi32(sum, a, b); }
TARGET_INLINE Vector dot8(Vector a, Vector b) { return _mm512_maddubs_epi16(a, b); }
TARGET_INLINE Vector absolute16(Vector v) { return _mm512_abs_epi16(v); }
TARGET_INLINE Vector min_unsigned16(Vector a, Vector b) { return _mm512_min_epu16(a, b); }
TARGET_INLINE Vector max_unsigned16(Vector a, Vector b) { return _mm512_max_epu16(a, b); }
TARGET_INLINE Vector min_unsigned8(Vector a, Vector b) { return _mm512_min_epu8(a, b); }
TARGET_INLINE Vector max_unsigned8(Vector a, Vector b) { return _mm512_max_epu8(a, b); }
TARGET_INLINE Vector min8(Vector a, Vector b) { return _mm512_min_epi8(a, b); }
TARGET_INLINE Vector min32(Vector a, Vector b) { return _mm512_min_epi32(a, b); }
TARGET_INLINE Vector max32(Vector a, Vector b) { return _mm512_max_epi32(a, b); }
TARGET_INLINE Vector shift_left16(Vector v, int bits) { return _mm512_slli_epi16(v, unsigned(bits)); }
TARGET_INLINE Vector shift_right16(Vector v, int bits) { return _mm512_srai_epi16(v, unsigned(bits)); }
TARGET_INLINE Vector shift_right_unsigned16(Vector v, int bits) { return _mm512_srli_epi16(v, unsigned(bits)); }
TARGET_INLINE Vector shift_right32(Vector v, __m128i bits) { return _mm512_sra_epi32(v, bits); }
TARGET_INLINE Vector shift_left32(Vector v, int bits) { return _mm512_slli_epi32(v, unsigned(bits)); }
TARGET_INLINE Vector shift_right32(Vector v, int bits) { return _mm512_srai_epi32(v, unsigned(bits)); }
TARGET_INLINE Vector shift_right_unsigned32(Vector v, int bits) { return _mm512_srli_epi32(v, unsigned(bits)); }

TARGET_INLINE Vector pack32(Vector a, Vector b) { return _mm512_packs_epi32(a, b); }
TARGET_INLINE Vector pack16(Vector a, Vector b) { return _mm512_packs_epi16(a, b); }
TARGET_INLINE Vector pack_unsigned16(Vector a, Vector b) { return _mm512_packus_epi16(a, b); }
TARGET_INLINE Vector unpack_low8(Vector a, Vector b) { return _mm512_unpacklo_epi8(a, b); }
TARGET_INLINE Vector unpack_high8(Vector a, Vector b) { return _mm512_unpackhi_epi8(a, b); }
TARGET_INLINE Vector unpack_low16(Vector a, Vector b) { return _mm512_unpacklo_epi16(a, b); }
TARGET_INLINE Vector unpack_high16(Vector a, Vector b) { return _mm512_unpackhi_epi16(a, b); }
TARGET_INLINE Vector unpack_low64(Vector a, Vector b) { return _mm512_unpacklo_epi64(a, b); }
TARGET_INLINE Vector unpack_high64(Vector a, Vector b) { return _mm512_unpackhi_epi64(a, b); }
TARGET_INLINE Vector shuffle8(Vector v, Vector from) { return _mm512_shuffle_epi8(v, from); }
template <int selection>
TARGET_INLINE Vector select32(Vector a, Vector b) {
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), selection));
}

TARGET_INLINE Vector counting32() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
TARGET_INLINE Half lower_half(Vector v) { return _mm512_castsi512_si256(v); }
TARGET_INLINE Half upper_half(Vector v) { return _mm512_extracti64x4_epi64(v, 1); }
TARGET_INLINE Half all32_half(int value) { return _mm256_set1_epi32(value); }
TARGET_INLINE Half add32(Half a, Half b) { return _mm256_add_epi32(a, b); }
TARGET_INLINE Half multiply32(Half a, Half b) { return _mm256_mullo_epi32(a, b); }
TARGET_INLINE Half shift_right32(Half v, int bits) { return _mm256_srai_epi32(v, bits); }
TARGET_INLINE Vector widen32(Half v) { return _mm512_cvtepu32_epi64(v); }
TARGET_INLINE __m128i load_two(const uint8_t* base, uint64_t place) {
    const __m128i first = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(base + uint32_t(place)));
    return _mm_castps_si128(
        _mm_loadh_pi(_mm_castsi128_ps(first), reinterpret_cast<const __m64*>(base + (place >> 32))));
}
TARGET_INLINE __m256i load_four(const uint8_t* base, __m128i place) {
    const auto low = uint64_t(_mm_cvtsi128_si64(place)), high = uint64_t(_mm_extract_epi64(place, 1));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load_two(base, low)), load_two(base, high), 1);
}
TARGET_INLINE Vector load_places(const uint8_t* base, Half place) {
    const __m256i low = load_four(base, _mm256_castsi256_si128(place));
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), load_four(base, _mm256_extracti128_si256(place, 1)), 1);
}

TARGET_INLINE uint64_t equal8(Vector v, int value) { return _mm512_cmpeq_epi8_mask(v, all8(value)); }
TARGET_INLINE Vector select_equal8(Vector a, Vector b, Vector yes, Vector no) {
    return _mm512_mask_blend_epi8(_mm512_cmpeq_epi8_mask(a, b), no, yes);
}
TARGET_INLINE int largest32(Vector v) { return _mm512_reduce_max_epi32(v); }
TARGET_INLINE Vector replace_first16(Vector v, const int16_t* words) {
    return _mm512_mask_loadu_epi16(v, 0x01010101, words);
}

TARGET_INLINE Floats load_floats(const float* p) { return _mm512_loadu_ps(p); }
TARGET_INLINE Floats all_floats(float value) { return _mm512_set1_ps(value); }
TARGET_INLINE Floats floats_of_bytes(const uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_lane(p)));
}
TARGET_INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
TARGET_INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
TARGET_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
TARGET_INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, c); }
TARGET_INLINE Vector bits_of(Floats v) { return _mm512_castps_si512(v); }
TARGET_INLINE Vector float16_of(Floats low, Floats high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
                              _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
}
struct OddWords {
    alignas(64) uint16_t number[32];
};
constexpr OddWords odd_words = [] {
    OddWords words{};
    for (int i = 0; i < 32; ++i) words.number[i] = uint16_t(2 * i + 1);
    return words;
}();
TARGET_INLINE Vector upper_halves(Vector low, Vector high) {
    return _mm512_permutex2var_epi16(low, _mm512_load_si512(odd_words.number), high);
}

}  // namespace
}  // namespace fastload

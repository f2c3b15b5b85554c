// AVX-512 kernels (with VBMI and VNNI, Ice Lake and later); scalar.cpp is their specification.
//
// The sources shared with AVX2 are included last. The code here differs from AVX2: AVX-512 permutes bytes across a
// whole vector, masks stores, and has instructions to sum products of bytes, expand coefficients and apply signs.
#if defined(__x86_64__)
#include <algorithm>
#include <cstring>

#include "color_change.h"
#include "dct_blocks.h"
#include "huffman.h"
#include "jpeg_scan.h"
#include "kernels.h"
#include "pixel_format.h"
#include "resample.h"
#include "vector_avx512.h"

namespace fastload {
namespace {

// Stores may alias anything, so loops copy the tables that they read to locals first.

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

TARGET void horizontal_four(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    constexpr __mmask64 upper = 0xaaaaaaaaaaaaaaaa;  // the samples' bytes of words
    const __m512i center = _mm512_set1_epi8(-128), next = all16(256);
    const __m512i least = all16(least_sample / 2), largest = all16(largest_sample / 2);
    const int32_t* base = table.base32.data();
    const uint8_t* index = table.index32.data();
    const int16_t* weight = table.four_weights.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 32, ++base, index += 64, weight += 128) {
        const __m512i samples = _mm512_xor_si512(load(row + *base), center);
        __m512i where = load(index), sum = zeros();
        for (int k = 0; k < 4; ++k, where = add16(where, next)) {
            const __m512i taps = _mm512_maskz_permutexvar_epi8(upper, where, samples);
            sum = add16(sum, multiply_high16(taps, load(weight + 32 * k)));
        }
        sum = _mm512_max_epi16(_mm512_min_epi16(sum, largest), least);
        store(out + u, add16(sum, sum));
    }
}

template <bool shuffles>
TARGET void horizontal_signed(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m512i even = all16(255);
    const __m256i least = _mm256_set1_epi16(least_sample), largest = _mm256_set1_epi16(largest_sample);
    const int groups = table.taps / 4, size = table.axis.size;
    const int16_t* weights = table.signed_weights.data();
    const int32_t* const bias = table.bias.data();
    const float* const norm = table.norm.data();
    for (int u = 0; u < size; u += 16) {
        const __m512i where = load(shuffles ? static_cast<const void*>(&table.index16[4 * u]) : &table.start[u]);
        const uint8_t* samples = shuffles ? row + table.base16[u / 16] : row;
        __m512i sum = load(bias + u);
        for (int g = 0; g < groups; ++g, samples += 4, weights += 64) {
            const __m512i taps = shuffles ? _mm512_permutexvar_epi8(where, load(samples))
                                          : _mm512_i32gather_epi32(where, samples, 1);
            sum = add_dot16(sum, bit_and(taps, even), load(weights));
            sum = add_dot16(sum, _mm512_srli_epi16(taps, 8), load(weights + 32));
        }
        const __m512i scaled = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(norm + u)));
        const __m256i packed = _mm512_cvtsepi32_epi16(scaled);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + u),
                            _mm256_max_epi16(_mm256_min_epi16(packed, largest), least));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (table.taps == 2) return horizontal_two(row, table, out);
    if (!table.four_weights.empty()) return horizontal_four(row, table, out);
    if (!table.signed_weights.empty())
        return table.shuffles16 ? horizontal_signed<true>(row, table, out) : horizontal_signed<false>(row, table, out);
    table.shuffles16 ? horizontal_many<true>(row, table, out) : horizontal_many<false>(row, table, out);
}

constexpr bool streams_pixels = false;

// The source of each byte of 64 packed pixels. Vector rg[h] has in lane l red and then green of pixels 32 h + 8 l to 32
// h + 8 l + 7; vector b has blue of those of h = 0 and then of h = 1.
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

TARGET_INLINE void interleave_pixels(const Vector (&rg)[2], Vector b, Vector (&packed)[3]) {
    for (int third = 0; third < 3; ++third) {
        // The outer thirds have pixels of one half only; permuting one vector ignores the upper two bits of a position.
        const Vector places = load(interleave.red_green[third]);
        const Vector red_green = third == 1 ? _mm512_permutex2var_epi8(rg[0], places, rg[1])
                                            : _mm512_permutexvar_epi8(places, rg[third / 2]);
        packed[third] = _mm512_mask_permutexvar_epi8(red_green, interleave.is_blue[third],
                                                     load(interleave.blue[third]), b);
    }
}

// Clips 64 pixels' channels and packs them to 192 bytes.
TARGET_INLINE void pack_pixels(const Vector (&channel)[2][3], Vector (&packed)[3]) {
    Vector rg[2];
    for (int h = 0; h < 2; ++h) rg[h] = pack_unsigned16(channel[h][0], channel[h][1]);
    interleave_pixels(rg, pack_unsigned16(channel[0][2], channel[1][2]), packed);
}

// The source of each byte of 16 packed pixels. Lane l has the pixels 2 l, 2 l + 1, 8 + 2 l and 9 + 2 l.
struct DropFourth {
    alignas(64) uint8_t from[64];
};
constexpr DropFourth drop_fourth = [] {
    DropFourth drop{};
    for (int j = 0; j < 48; ++j) {
        const int pixel = j / 3;
        drop.from[j] = uint8_t(pixel % 8 / 2 * 16 + pixel / 8 * 8 + pixel % 2 * 4 + j % 3);
    }
    return drop;
}();

TARGET_INLINE void store_pixels(Vector bytes, uint8_t* out) {
    store_bytes(out, _mm512_permutexvar_epi8(load(drop_fourth.from), bytes), 48);
}

// The source, among 192 bytes, of each of the 64 bytes of a channel: in the first two vectors, or in the third.
struct Split {
    alignas(64) uint8_t from[3][64];
    uint64_t is_third[3];
};
constexpr Split split_places(bool halves) {  // in lanes by halves, or in order
    Split split{};
    for (int c = 0; c < 3; ++c)
        for (int u = 0; u < 64; ++u) {
            const int byte = 3 * (halves ? u % 16 / 8 * 32 + u / 16 * 8 + u % 8 : u) + c;
            split.from[c][u] = uint8_t(byte % 128);
            split.is_third[c] |= uint64_t(byte >= 128) << u;
        }
    return split;
}
constexpr Split places = split_places(false), halved_places = split_places(true);

TARGET_INLINE Vector channel_of(const Vector (&bytes)[3], const Split& split, int c) {
    const Vector from = _mm512_load_si512(split.from[c]);
    const Vector first = _mm512_permutex2var_epi8(bytes[0], from, bytes[1]);
    return _mm512_mask_permutexvar_epi8(first, split.is_third[c], from, bytes[2]);
}

TARGET void split(const uint8_t* rgb, int width, uint8_t* const channel[3]) {
    for (int u = 0; u < width; u += 64) {
        const int left = 3 * (width - u);
        __m512i bytes[3];
        for (int k = 0; k < 3; ++k) {
            const int count = std::clamp(left - 64 * k, 0, 64);
            bytes[k] = _mm512_maskz_loadu_epi8(count == 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1,
                                               rgb + 3 * u + std::min(64 * k, left));
        }
        const __mmask64 kept = width - u >= 64 ? ~__mmask64{0} : (__mmask64{1} << (width - u)) - 1;
        for (int c = 0; c < 3; ++c) _mm512_mask_storeu_epi8(channel[c] + u, kept, channel_of(bytes, places, c));
    }
}

TARGET_INLINE void unpack_channels(const uint8_t* rgb, Vector (&channel)[3]) {
    const Vector bytes[3] = {load(rgb), load(rgb + 64), load(rgb + 128)};
    for (int c = 0; c < 3; ++c) channel[c] = channel_of(bytes, halved_places, c);
}

TARGET_INLINE Vector look_up_bytes(Vector bytes, const uint8_t* table) {
    const Vector low = _mm512_permutex2var_epi8(load(table), bytes, load(table + 64));
    const Vector high = _mm512_permutex2var_epi8(load(table + 128), bytes, load(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high);
}

TARGET_INLINE void reciprocals(Vector n, const Reciprocals& table, Vector (&whole)[2], Vector (&part)[2]) {
    const Vector upper = look_up_bytes(n, table.bytes.upper), lower = look_up_bytes(n, table.bytes.lower);
    const Vector fraction = look_up_bytes(n, table.bytes.part);
    whole[0] = unpack_low8(lower, upper);
    whole[1] = unpack_high8(lower, upper);
    part[0] = shift_right_unsigned16(unpack_low8(zeros(), fraction), 1);
    part[1] = shift_right_unsigned16(unpack_high8(zeros(), fraction), 1);
}

// The data of a row of blocks before its samples are computed.
struct Row {
    Row(uint8_t* scratch, int padded)
        : dc(reinterpret_cast<int16_t*>(scratch)),
          mask(reinterpret_cast<uint64_t*>(scratch + 16 * size_t(padded))),
          values(reinterpret_cast<const uint8_t**>(scratch + 24 * size_t(padded))) {}
    int16_t* dc;      // one every 16 bytes
    uint64_t* mask;   // of non-zero coefficients
    const uint8_t** values;
};

TARGET void read_blocks(BlockStreams& streams, int left, int right, const Row& row) {
    for (int x = left; x < right; ++x) {
        uint64_t bytes;
        std::memcpy(&bytes, streams.masks, sizeof bytes);
        const uint64_t presence = *streams.presence++;
        row.mask[x] = _pdep_u64(bytes, _pdep_u64(presence, 0x0101010101010101) * 0xff);
        row.values[x] = streams.values;
        streams.masks += _mm_popcnt_u64(presence);
        streams.values += _mm_popcnt_u64(row.mask[x]);
    }
    for (int x = right; x % lanes != 0; ++x) {
        row.dc[8 * x] = 0;
        row.mask[x] = 0;
        row.values[x] = streams.values;
    }
}

TARGET_INLINE void load_units(const Row& row, int x, Vector (&unit)[4]) {
    Vector block[lanes];
    for (int i = 0; i < lanes; ++i)
        block[i] = _mm512_maskz_expand_epi8(row.mask[x + i], load(row.values[x + i]));
    const Vector ab_low = _mm512_shuffle_i64x2(block[0], block[1], 0x44);
    const Vector ab_high = _mm512_shuffle_i64x2(block[0], block[1], 0xee);
    const Vector cd_low = _mm512_shuffle_i64x2(block[2], block[3], 0x44);
    const Vector cd_high = _mm512_shuffle_i64x2(block[2], block[3], 0xee);
    unit[0] = _mm512_shuffle_i64x2(ab_low, cd_low, 0x88);
    unit[1] = _mm512_shuffle_i64x2(ab_low, cd_low, 0xdd);
    unit[2] = _mm512_shuffle_i64x2(ab_high, cd_high, 0x88);
    unit[3] = _mm512_shuffle_i64x2(ab_high, cd_high, 0xdd);
}

TARGET_INLINE void store_two_rows(Vector rows, uint8_t* out, ptrdiff_t stride) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(rows));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + stride), _mm512_extracti64x4_epi64(rows, 1));
}

TARGET_INLINE void store_four_rows(Vector left, Vector right, uint8_t* out, ptrdiff_t stride) {
    const Vector first = _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 1, 17, 5, 21, 9, 25, 13, 29);
    const Vector second = add32(first, all32(2));
    store_two_rows(_mm512_permutex2var_epi32(left, first, right), out, stride);
    store_two_rows(_mm512_permutex2var_epi32(left, second, right), out + 2 * stride, stride);
}

TARGET void apply_signs(uint8_t* values, const uint8_t* signs, size_t count) {
    for (size_t i = 0; i < count; i += 64) {
        uint64_t negative;
        std::memcpy(&negative, signs + i / 8, sizeof negative);
        const Vector magnitude = _mm512_loadu_si512(values + i);
        _mm512_storeu_si512(values + i, _mm512_mask_sub_epi8(magnitude, negative, _mm512_setzero_si512(), magnitude));
    }
}

}  // namespace
}  // namespace fastload

#include "blend.h"
#include "colors.h"
#include "set_bits.h"
#include "idct.h"
#include "samples.h"
#include "warp.h"
#include "weighted_sum.h"

namespace fastload {
namespace {

struct LookUp {
    TARGET_INLINE void operator()(uint8_t* rgb) const {
        Vector channel[3], packed[3];
        unpack_channels(rgb, channel);
        for (int c = 0; c < 3; ++c) channel[c] = look_up_bytes(channel[c], table.level[c]);
        const Vector rg[2] = {unpack_low64(channel[0], channel[1]), unpack_high64(channel[0], channel[1])};
        interleave_pixels(rg, channel[2], packed);
        store_packed(rgb, packed);
    }
    const LevelTable& table;
};

TARGET void look_up(uint8_t* rgb, size_t pixels, const LevelTable& given) {
    const LevelTable table = given;
    for_blocks(rgb, pixels, LookUp{table});
}

}  // namespace

const Kernels avx512_kernels = {horizontal, blend, stream, recolor, adjust_hsv, look_up, warp, mix, split, convert, decode_blocks,
                                inverse_dct, apply_signs, set_bits, weighted_sum, huffman_decode_avx2, decode_mcus_bmi2};

}  // namespace fastload
#endif

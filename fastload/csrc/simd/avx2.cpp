// AVX2 kernels (with FMA, F16C and BMI2); scalar.cpp is their specification.
//
// The sources shared with AVX-512 are included last. The code here differs from AVX-512: AVX2 shuffles bytes only
// within lanes of 16, and has no instructions to sum products of bytes, expand coefficients or apply signs.
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
#include "vector_avx2.h"

namespace fastload {
namespace {

// Stores may alias anything, so loops copy the tables that they read to locals first.

TARGET void horizontal_two(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i center = _mm256_set1_epi8(-128);
    const int32_t* base = table.base8.data();
    const uint8_t *index = table.index8.data(), *weight = table.weight.data();
    const int16_t* const end = out + table.axis.size;
    for (; out < end; out += 16, base += 2, index += 32, weight += 32) {
        const __m256i samples = bit_xor(load_pair(row + base[0], row + base[1]), center);
        const __m256i pairs = shuffle8(samples, load(index));
        store(out, _mm256_maddubs_epi16(load(weight), pairs));
    }
}

// Four taps of eight outputs; even and odd taps are separate, since the products of a pair may exceed 16 bits.
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
            const __m256i taps = shuffles ? shuffle8(load_pair(low, high), where)
                                          : _mm256_i32gather_epi32(reinterpret_cast<const int*>(low), where, 1);
            sum = dot(sum, load(weights), _mm256_xor_si256(taps, center));
        }
        const __m256i scaled =
            _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(&table.norm[u])));
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(scaled, scaled), 0xD8);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + u), _mm256_castsi256_si128(packed));
    }
}

TARGET void horizontal_four(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i center = _mm256_set1_epi8(-128), next = all16(256);
    const __m256i least = all16(least_sample / 2), largest = all16(largest_sample / 2);
    const int32_t* base = table.base8.data();
    const uint8_t* index = table.index8.data();
    const int16_t* const weights = table.four_weights.data();
    const int size = table.axis.size;
    for (int u = 0; u < size; u += 16, base += 2, index += 32) {
        const __m256i samples = bit_xor(load_pair(row + base[0], row + base[1]), center);
        const int16_t* weight = weights + u / 32 * 128 + u % 32;
        __m256i where = load(index), sum = multiply_high16(shuffle8(samples, where), load(weight));
        for (int k = 1; k < 4; ++k) {
            where = add16(where, next);
            sum = add16(sum, multiply_high16(shuffle8(samples, where), load(weight + 32 * k)));
        }
        sum = _mm256_max_epi16(_mm256_min_epi16(sum, largest), least);
        store(out + u, add16(sum, sum));
    }
}

template <bool shuffles>
TARGET void horizontal_signed(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    const __m256i even = _mm256_set1_epi16(255);
    const __m128i least = _mm_set1_epi16(least_sample), largest = _mm_set1_epi16(largest_sample);
    const int groups = table.taps / 4, size = table.axis.size;
    const int32_t* const bias = table.bias.data();
    const float* const norm = table.norm.data();
    for (int u = 0; u < size; u += 8) {
        const int16_t* weights = &table.signed_weights[size_t(u / 16) * groups * 64 + u % 16 * 2];
        const __m256i where = load(shuffles ? static_cast<const void*>(&table.index4[4 * u]) : &table.start[u]);
        const uint8_t* low = shuffles ? row + table.base4[u / 4] : row;
        const uint8_t* high = shuffles ? row + table.base4[u / 4 + 1] : row;
        __m256i sum = load(bias + u);
        for (int g = 0; g < groups; ++g, low += 4, high += 4, weights += 64) {
            const __m256i taps = shuffles ? shuffle8(load_pair(low, high), where)
                                          : _mm256_i32gather_epi32(reinterpret_cast<const int*>(low), where, 1);
            sum = add_dot16(sum, _mm256_and_si256(taps, even), load(weights));
            sum = add_dot16(sum, _mm256_srli_epi16(taps, 8), load(weights + 32));
        }
        const __m256i scaled = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), _mm256_loadu_ps(norm + u)));
        const __m128i packed =
            _mm_packs_epi32(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256(scaled, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + u), _mm_max_epi16(_mm_min_epi16(packed, largest), least));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (table.taps == 2) return horizontal_two(row, table, out);
    if (!table.four_weights.empty()) return horizontal_four(row, table, out);
    if (!table.signed_weights.empty())
        return table.shuffles4 ? horizontal_signed<true>(row, table, out) : horizontal_signed<false>(row, table, out);
    table.shuffles4 ? horizontal_many<true>(row, table, out) : horizontal_many<false>(row, table, out);
}

constexpr bool streams_pixels = true;

// The source byte, within its lane, of each byte of 32 packed pixels. Vector rg[h] has in lane l red and then green of
// pixels 16 h + 8 l to 16 h + 8 l + 7; vector b has blue of those of h = 0 and then of h = 1. Of the six 16-byte parts
// of the pixels, part 3 h is in the lower lane, part 3 h + 2 in the upper, and half of part 3 h + 1 in each.
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

TARGET_INLINE void store_pixels(Vector bytes, uint8_t* out) {
    const Vector in_order = _mm256_permute4x64_epi64(bytes, 0xd8);
    const Vector three = all_lanes(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    const Vector packed = _mm256_permutevar8x32_epi32(shuffle8(in_order, three), _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 16), _mm256_extracti128_si256(packed, 1));
}

// For each byte of a channel: which of the three 16-byte parts of 16 pixels holds it, and where; both lanes alike.
struct Split {
    alignas(32) uint8_t from[3][3][32];  // [channel][part]
};
constexpr Split places = [] {
    Split split{};
    for (int c = 0; c < 3; ++c)
        for (int part = 0; part < 3; ++part)
            for (int u = 0; u < 32; ++u) {
                const int byte = 3 * (u % 16) + c;
                split.from[c][part][u] = byte / 16 == part ? uint8_t(byte % 16) : 0x80;
            }
    return split;
}();

TARGET void split(const uint8_t* rgb, int width, uint8_t* const channel[3]) {
    const int whole = width / 32 * 32;
    for (int u = 0; u < whole; u += 32) {
        __m256i parts[3];
        for (int k = 0; k < 3; ++k) parts[k] = load_lanes(rgb + 3 * u + 16 * k, 48);
        for (int c = 0; c < 3; ++c) {
            __m256i row = _mm256_setzero_si256();
            for (int k = 0; k < 3; ++k) {
                const auto from = _mm256_load_si256(reinterpret_cast<const __m256i*>(places.from[c][k]));
                row = _mm256_or_si256(row, _mm256_shuffle_epi8(parts[k], from));
            }
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(channel[c] + u), row);
        }
    }
    uint8_t* const rest[3] = {channel[0] + whole, channel[1] + whole, channel[2] + whole};
    scalar_kernels.split(rgb + 3 * whole, width - whole, rest);
}

// The source, in the two lanes alike, of the bytes of a channel of 16 pixels: for each half of 8 of them, the first 16
// bytes, and the other 8 in that half of a third vector.
struct HalvedSplit {
    alignas(32) uint8_t from[3][3][32];  // [channel][first half, second half, rest]
};
constexpr HalvedSplit halved_places = [] {
    HalvedSplit split{};
    for (int c = 0; c < 3; ++c)
        for (int u = 0; u < 32; ++u) {
            const int h = u % 16 / 8, byte = 3 * (u % 8) + c;
            split.from[c][h][u] = byte < 16 ? uint8_t(byte) : nowhere;
            split.from[c][1 - h][u] = nowhere;
            split.from[c][2][u] = byte < 16 ? nowhere : uint8_t(8 * h + byte - 16);
        }
    return split;
}();

TARGET_INLINE void unpack_channels(const uint8_t* rgb, Vector (&channel)[3]) {
    const Vector first = load_lanes(rgb, 24), second = load_lanes(rgb + 48, 24);
    const Vector rest = unpack_high64(load_lanes(rgb + 8, 24), load_lanes(rgb + 56, 24));
    for (int c = 0; c < 3; ++c) {
        const auto& from = halved_places.from[c];
        channel[c] = _mm256_or_si256(_mm256_or_si256(shuffled(first, from[0]), shuffled(second, from[1])),
                                     shuffled(rest, from[2]));
    }
}

// Divided here: there are no instructions for a table of 256. A test shows that the quotients are those of the table.
TARGET_INLINE void reciprocals(Vector n, const Reciprocals& table, Vector (&whole)[2], Vector (&part)[2]) {
    const __m256 numerator = all_floats(float(table.numerator));
    const Vector words[2] = {unpack_low8(n, zeros()), unpack_high8(n, zeros())};
    for (int h = 0; h < 2; ++h) {
        Vector quotient[2] = {unpack_low16(words[h], zeros()), unpack_high16(words[h], zeros())};
        for (Vector& q : quotient) q = _mm256_cvtps_epi32(_mm256_div_ps(numerator, _mm256_cvtepi32_ps(q)));
        whole[h] = _mm256_packus_epi32(shift_right_unsigned32(quotient[0], Reciprocals::bits),
                                       shift_right_unsigned32(quotient[1], Reciprocals::bits));
        const Vector mask = all32((1 << Reciprocals::bits) - 1);
        part[h] = shift_left16(pack32(bit_and(quotient[0], mask), bit_and(quotient[1], mask)), 15 - Reciprocals::bits);
    }
}

// The data of a row of blocks before its samples are computed.
struct Row {
    Row(uint8_t* scratch, int padded)
        : coefficients(scratch), dc(reinterpret_cast<int16_t*>(scratch + 64 * size_t(padded))) {}
    uint8_t* coefficients;  // 64 int8 a block, in packed order
    int16_t* dc;            // one every 16 bytes
};

// For each byte of a mask, the shuffle that moves consecutive bytes to where its bits are set, and zeros elsewhere.
struct ExpandTable {
    uint8_t shuffle[256][8];
};

constexpr ExpandTable expand_table = [] {
    ExpandTable table{};
    for (int mask = 0; mask < 256; ++mask)
        for (int bit = 0, next = 0; bit < 8; ++bit) table.shuffle[mask][bit] = mask >> bit & 1 ? uint8_t(next++) : 0x80;
    return table;
}();

TARGET_INLINE __m128i load8(const uint8_t* p) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)); }

TARGET_INLINE __m128i expanded(const uint8_t* bytes, size_t mask) {
    return _mm_shuffle_epi8(load8(bytes), load8(expand_table.shuffle[mask]));
}

TARGET void read_blocks(BlockStreams& streams, int left, int right, const Row& row) {
    uint8_t* out = row.coefficients + 64 * left;
    const uint8_t* values = streams.values;
    for (int x = left; x < right; ++x) {
        const size_t presence = *streams.presence++;
        uint64_t mask = uint64_t(_mm_cvtsi128_si64(expanded(streams.masks, presence)));
        streams.masks += _mm_popcnt_u64(presence);
        for (int group = 0; group < 8; ++group, mask >>= 8, out += 8) {
            _mm_storel_epi64(reinterpret_cast<__m128i*>(out), expanded(values, mask & 0xff));
            values += _mm_popcnt_u64(mask & 0xff);
        }
    }
    streams.values = values;
    for (int x = right; x % lanes != 0; ++x, out += 64) {
        row.dc[8 * x] = 0;
        std::fill_n(out, 64, uint8_t{0});
    }
}

TARGET_INLINE void load_units(const Row& row, int x, Vector (&unit)[4]) {
    for (int i = 0; i < 4; ++i) unit[i] = load_lanes(row.coefficients + 64 * x + 16 * i, 64);
}

// `rows` has in each lane a row's eight samples and the next row's.
TARGET_INLINE void store_two_rows(Vector rows, uint8_t* out, ptrdiff_t stride) {
    const Vector in_order = _mm256_permute4x64_epi64(rows, 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(in_order));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride), _mm256_extracti128_si256(in_order, 1));
}

TARGET_INLINE void store_four_rows(Vector left, Vector right, uint8_t* out, ptrdiff_t stride) {
    store_two_rows(_mm256_unpacklo_epi32(left, right), out, stride);
    store_two_rows(_mm256_unpackhi_epi32(left, right), out + 2 * stride, stride);
}

TARGET void apply_signs(uint8_t* values, const uint8_t* signs, size_t count) {
    const Vector spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3,
                                           3, 3, 3, 3, 3, 3, 3);
    const Vector bit = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    for (size_t i = 0; i < count; i += 32) {
        int32_t negative;
        std::memcpy(&negative, signs + i / 8, sizeof negative);
        const Vector spread_bits = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(negative), spread), bit);
        const Vector minus = _mm256_cmpeq_epi8(spread_bits, bit);
        auto* const place = reinterpret_cast<Vector*>(values + i);
        const Vector magnitude = _mm256_loadu_si256(place);
        _mm256_storeu_si256(place, _mm256_sub_epi8(_mm256_xor_si256(magnitude, minus), minus));
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

const Kernels avx2_kernels = {horizontal, blend, stream, recolor, adjust_hsv, scalar_kernels.look_up, warp, mix, split,
                              convert, decode_blocks, inverse_dct, apply_signs, set_bits, weighted_sum, huffman_decode_avx2,
                              decode_mcus_bmi2};

}  // namespace fastload
#endif

// Two blocks at a time: each 128-bit lane of a register belongs to one of them.
#pragma once

namespace fastload {
namespace {

using Vector = __m256i;

constexpr int lanes = 2;

// What is known of a block row before its samples are computed.
struct Row {
    Row(uint8_t* scratch, int blocks) : padded((blocks + lanes - 1) / lanes * lanes) {
        coefficients = scratch;
        dc = reinterpret_cast<int16_t*>(scratch + 64 * size_t(padded));
    }
    int padded;
    uint8_t* coefficients;  // 64 int8 a block, in packed order
    int16_t* dc;            // one every 16 bytes
};

// A component's quantisation table in packed order, split into even and odd positions, the same in both lanes.
struct Quantisation {
    Vector even[4], odd[4];
};

TARGET Quantisation packed_quantisation(const uint16_t* quant) {
    Quantisation result;
    for (size_t unit = 0; unit < 4; ++unit) {
        alignas(16) uint16_t even[8], odd[8];
        for (size_t i = 0; i < 8; ++i) {
            even[i] = quant[packed_to_natural[unit * 16 + 2 * i]];
            odd[i] = quant[packed_to_natural[unit * 16 + 2 * i + 1]];
        }
        result.even[unit] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(even)));
        result.odd[unit] = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(odd)));
    }
    return result;
}

// Per byte of a mask the shuffle that puts consecutive bytes where its bits are set, and zeros elsewhere.
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

TARGET void read_row(BlockStreams& streams, int blocks, int above, const Row& row) {
    read_dc_row(streams, blocks, above, row.dc, 8);
    uint8_t* out = row.coefficients;
    const uint8_t* values = streams.values;
    for (int x = 0; x < blocks; ++x) {
        const size_t presence = *streams.presence++;
        uint64_t mask = uint64_t(_mm_cvtsi128_si64(expanded(streams.masks, presence)));
        streams.masks += _mm_popcnt_u64(presence);
        for (int group = 0; group < 8; ++group, mask >>= 8, out += 8) {
            _mm_storel_epi64(reinterpret_cast<__m128i*>(out), expanded(values, mask & 0xff));
            values += _mm_popcnt_u64(mask & 0xff);
        }
    }
    streams.values = values;
    for (int x = blocks; x < row.padded; ++x, out += 64) {
        row.dc[8 * x] = 0;
        std::fill_n(out, 64, uint8_t{0});
    }
}

TARGET_INLINE Vector coefficient_pair(int first, int second) {
    return _mm256_set1_epi32(int((uint32_t(second) << 16) | (uint32_t(first) & 0xffff)));
}

// One pass over inputs in pairs (0, 2), (4, 6), (1, 3), (5, 7); the eight outputs in 32 bits, before the shift.
TARGET_INLINE void transform(const Vector (&in)[4], Vector rounding, Vector (&out)[8]) {
    for (int i = 0; i < 4; ++i) {
        const auto &e = idct::even[i], &o = idct::odd[i];
        const Vector even = _mm256_add_epi32(
            rounding, _mm256_add_epi32(_mm256_madd_epi16(in[0], coefficient_pair(e[0], e[1])),
                                       _mm256_madd_epi16(in[1], coefficient_pair(e[2], e[3]))));
        const Vector odd = _mm256_add_epi32(_mm256_madd_epi16(in[2], coefficient_pair(o[0], o[1])),
                                            _mm256_madd_epi16(in[3], coefficient_pair(o[2], o[3])));
        out[i] = _mm256_add_epi32(even, odd);
        out[7 - i] = _mm256_sub_epi32(even, odd);
    }
}

TARGET_INLINE Vector shifted_pair(Vector a, Vector b, int shift) {
    return _mm256_packs_epi32(_mm256_srai_epi32(a, shift), _mm256_srai_epi32(b, shift));
}

template <int selection>
TARGET_INLINE Vector select_dwords(Vector a, Vector b) {
    return _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), selection));
}

// First pass: half[0] holds columns 0, 2, 4, 6 and half[1] columns 1, 3, 5, 7, each in pairs of rows. The results are
// pairs of columns for rows 0 to 3 (rows[0]) and 4 to 7 (rows[1]).
TARGET_INLINE void transform_columns(const Vector (&half)[2][4], Vector (&rows)[2][4]) {
    const Vector rounding = _mm256_set1_epi32(1 << (idct::shift[0] - 1));
    for (int h = 0; h < 2; ++h) {
        Vector out[8];
        transform(half[h], rounding, out);
        for (int r = 0; r < 2; ++r) {
            const Vector a = shifted_pair(out[4 * r], out[4 * r + 1], idct::shift[0]);
            const Vector b = shifted_pair(out[4 * r + 2], out[4 * r + 3], idct::shift[0]);
            rows[r][2 * h] = select_dwords<0x88>(a, b);
            rows[r][2 * h + 1] = select_dwords<0xdd>(a, b);
        }
    }
}

// Four columns of four rows in 32 bits to bytes, row by row in each lane.
TARGET_INLINE Vector pack_samples(const Vector* column) {
    const Vector words_a = shifted_pair(column[0], column[1], idct::shift[1]);
    const Vector words_b = shifted_pair(column[2], column[3], idct::shift[1]);
    const Vector bytes = _mm256_xor_si256(_mm256_packs_epi16(words_a, words_b), _mm256_set1_epi8(-128));
    const __m128i transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(transpose));
}

// `rows` has in each lane a row's eight samples and the next row's.
TARGET_INLINE void store_rows(Vector rows, uint8_t* out, ptrdiff_t stride) {
    const Vector two_rows = _mm256_permute4x64_epi64(rows, 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(two_rows));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + stride), _mm256_extracti128_si256(two_rows, 1));
}

TARGET_INLINE void transform_rows(const Vector (&rows)[2][4], uint8_t* out, ptrdiff_t stride) {
    const Vector rounding = _mm256_set1_epi32(1 << (idct::shift[1] - 1));
    for (int r = 0; r < 2; ++r, out += 4 * stride) {
        Vector columns[8];
        transform(rows[r], rounding, columns);
        const Vector left = pack_samples(columns), right = pack_samples(columns + 4);
        store_rows(_mm256_unpacklo_epi32(left, right), out, stride);
        store_rows(_mm256_unpackhi_epi32(left, right), out + 2 * stride, stride);
    }
}

// `half` and `quant` in transform order.
TARGET_INLINE void transform_blocks(const Vector (&half)[2][4], const Quantisation& quant, uint8_t* out,
                                  ptrdiff_t stride) {
    constexpr int in_order[4] = {0, 2, 1, 3};  // units hold row pairs (0, 2), (1, 3), (4, 6), (5, 7)
    Vector scaled[2][4], rows[2][4];
    for (int i = 0; i < 4; ++i) {
        scaled[0][i] = _mm256_mullo_epi16(half[0][in_order[i]], quant.even[in_order[i]]);
        scaled[1][i] = _mm256_mullo_epi16(half[1][in_order[i]], quant.odd[in_order[i]]);
    }
    transform_columns(scaled, rows);
    transform_rows(rows, out, stride);
}

// Puts coefficients beyond +-127 in their place.
TARGET __attribute__((noinline)) void replace_large_values(BlockStreams& streams, const uint8_t* coefficients,
                                                         Vector (&half)[2][4]) {
    alignas(32) int16_t words[2][4][16];
    std::memcpy(words, half, sizeof words);
    for (int i = 0; i < 64 * lanes; i += 32) {
        const Vector bytes = _mm256_loadu_si256(reinterpret_cast<const Vector*>(coefficients + i));
        auto large = unsigned(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(-128))));
        for (; large; large &= large - 1) {
            const int lane = i / 64, p = i % 64 + __builtin_ctz(large);
            words[p & 1][p >> 4][lane * 8 + (p >> 1 & 7)] = int16_t(read_large_value(streams));
        }
    }
    std::memcpy(half, words, sizeof words);
}

TARGET_INLINE void decode_pair(BlockStreams& streams, const Row& row, int x, const Quantisation& quant, uint8_t* out,
                             ptrdiff_t stride) {
    const uint8_t* const coefficients = row.coefficients + 64 * x;
    Vector half[2][4], least = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
        const auto* const units = reinterpret_cast<const __m128i*>(coefficients) + i;
        const Vector unit = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(units)),
                                                    _mm_loadu_si128(units + 4), 1);
        least = _mm256_min_epi8(least, unit);
        half[0][i] = _mm256_srai_epi16(_mm256_slli_epi16(unit, 8), 8);
        half[1][i] = _mm256_srai_epi16(unit, 8);
    }
    const int large = _mm256_movemask_epi8(_mm256_cmpeq_epi8(least, _mm256_set1_epi8(-128)));
    if (__builtin_expect(large != 0, 0)) replace_large_values(streams, coefficients, half);
    const Vector dc = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.dc + 8 * x));
    half[0][0] = _mm256_blend_epi16(half[0][0], dc, 0x01);

    transform_blocks(half, quant, out, stride);
}

TARGET void decode_blocks(BlockStreams& streams, const DctComponent& component, uint8_t* scratch, uint8_t* out,
                             ptrdiff_t stride) {
    const Quantisation quant = packed_quantisation(component.quant);
    const Row row(scratch, component.blocks_w);
    row.dc[0] = 0;
    for (int y = 0; y < component.blocks_h; ++y, out += 8 * stride) {
        read_row(streams, component.blocks_w, row.dc[0], row);
        for (int x = 0; x < row.padded; x += lanes) decode_pair(streams, row, x, quant, out + 8 * x, stride);
    }
}

TARGET int inverse_dct(const int16_t* blocks, int count, const uint16_t* quant, uint8_t* out, ptrdiff_t stride) {
    const auto* const steps = reinterpret_cast<const __m128i*>(quant);
    Quantisation both;
    for (int i = 0; i < 4; ++i) {
        both.even[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(steps + i));
        both.odd[i] = _mm256_broadcastsi128_si256(_mm_loadu_si128(steps + 4 + i));
    }
    Vector worst = _mm256_setzero_si256();
    for (int x = 0; x < count; x += lanes) {
        const auto* const units = reinterpret_cast<const __m128i*>(blocks + 64 * x);
        Vector half[2][4], sum[2];
        for (int h = 0; h < 2; ++h) {
            sum[h] = _mm256_setzero_si256();
            for (int i = 0; i < 4; ++i) {
                half[h][i] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(units + 4 * h + i)),
                                                     _mm_loadu_si128(units + 8 + 4 * h + i), 1);
                Vector magnitude = _mm256_abs_epi16(half[h][i]);
                if (h == 0 && i == 0) magnitude = _mm256_min_epu16(magnitude, _mm256_set1_epi16(32767));  // DC: -32768
                sum[h] = _mm256_add_epi32(sum[h], _mm256_madd_epi16(magnitude, h ? both.odd[i] : both.even[i]));
            }
        }
        worst = _mm256_max_epi32(worst, _mm256_max_epi32(sum[0], sum[1]));
        transform_blocks(half, both, out + 8 * x, stride);
    }
    alignas(32) int columns[8];
    _mm256_store_si256(reinterpret_cast<Vector*>(columns), worst);
    return *std::max_element(columns, columns + 8);
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

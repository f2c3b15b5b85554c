// Four blocks at a time: each 128-bit lane of a register belongs to one of them.
#pragma once

namespace fastload {
namespace {

using Vector = __m512i;

constexpr int lanes = 4;

// What is known of a block row before its samples are computed.
struct Row {
    Row(uint8_t* scratch, int blocks) : padded((blocks + lanes - 1) / lanes * lanes) {
        dc = reinterpret_cast<int16_t*>(scratch);
        mask = reinterpret_cast<uint64_t*>(scratch + 16 * size_t(padded));
        values = reinterpret_cast<const uint8_t**>(scratch + 24 * size_t(padded));
    }
    int padded;
    int16_t* dc;      // one every 16 bytes
    uint64_t* mask;   // of non-zero coefficients
    const uint8_t** values;
};

// A component's quantisation table in packed order, split into even and odd positions, the same in all lanes.
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
        result.even[unit] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(even)));
        result.odd[unit] = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(odd)));
    }
    return result;
}

TARGET void read_row(BlockStreams& streams, int blocks, int above, const Row& row) {
    read_dc_row(streams, blocks, above, row.dc, 8);
    for (int x = 0; x < blocks; ++x) {
        uint64_t bytes;
        std::memcpy(&bytes, streams.masks, sizeof bytes);
        const uint64_t presence = *streams.presence++;
        row.mask[x] = _pdep_u64(bytes, _pdep_u64(presence, 0x0101010101010101) * 0xff);
        row.values[x] = streams.values;
        streams.masks += _mm_popcnt_u64(presence);
        streams.values += _mm_popcnt_u64(row.mask[x]);
    }
    for (int x = blocks; x < row.padded; ++x) {
        row.dc[8 * x] = 0;
        row.mask[x] = 0;
        row.values[x] = streams.values;
    }
}

TARGET_INLINE Vector coefficient_pair(int first, int second) {
    return _mm512_set1_epi32(int((uint32_t(second) << 16) | (uint32_t(first) & 0xffff)));
}

// One pass over inputs in pairs (0, 2), (4, 6), (1, 3), (5, 7); the eight outputs in 32 bits, before the shift.
TARGET_INLINE void transform(const Vector (&in)[4], Vector rounding, Vector (&out)[8]) {
    for (int i = 0; i < 4; ++i) {
        const auto &e = idct::even[i], &o = idct::odd[i];
        Vector even = _mm512_dpwssd_epi32(rounding, in[0], coefficient_pair(e[0], e[1]));
        even = _mm512_dpwssd_epi32(even, in[1], coefficient_pair(e[2], e[3]));
        Vector odd = _mm512_madd_epi16(in[2], coefficient_pair(o[0], o[1]));
        odd = _mm512_dpwssd_epi32(odd, in[3], coefficient_pair(o[2], o[3]));
        out[i] = _mm512_add_epi32(even, odd);
        out[7 - i] = _mm512_sub_epi32(even, odd);
    }
}

TARGET_INLINE Vector shifted_pair(Vector a, Vector b, int shift) {
    return _mm512_packs_epi32(_mm512_srai_epi32(a, unsigned(shift)), _mm512_srai_epi32(b, unsigned(shift)));
}

template <int selection>
TARGET_INLINE Vector select_dwords(Vector a, Vector b) {
    return _mm512_castps_si512(_mm512_shuffle_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), selection));
}

// First pass: half[0] holds columns 0, 2, 4, 6 and half[1] columns 1, 3, 5, 7, each in pairs of rows. The results are
// pairs of columns for rows 0 to 3 (rows[0]) and 4 to 7 (rows[1]).
TARGET_INLINE void transform_columns(const Vector (&half)[2][4], Vector (&rows)[2][4]) {
    const Vector rounding = _mm512_set1_epi32(1 << (idct::shift[0] - 1));
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
    const Vector bytes = _mm512_xor_si512(_mm512_packs_epi16(words_a, words_b), _mm512_set1_epi8(-128));
    const __m128i transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(transpose));
}

TARGET_INLINE void store_rows(Vector two_rows, uint8_t* out, ptrdiff_t stride) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_castsi512_si256(two_rows));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + stride), _mm512_extracti64x4_epi64(two_rows, 1));
}

TARGET_INLINE void transform_rows(const Vector (&rows)[2][4], uint8_t* out, ptrdiff_t stride) {
    const Vector rounding = _mm512_set1_epi32(1 << (idct::shift[1] - 1));
    const Vector first = _mm512_setr_epi32(0, 16, 4, 20, 8, 24, 12, 28, 1, 17, 5, 21, 9, 25, 13, 29);
    const Vector second = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    for (int r = 0; r < 2; ++r, out += 4 * stride) {
        Vector columns[8];
        transform(rows[r], rounding, columns);
        const Vector left = pack_samples(columns), right = pack_samples(columns + 4);
        store_rows(_mm512_permutex2var_epi32(left, first, right), out, stride);
        store_rows(_mm512_permutex2var_epi32(left, second, right), out + 2 * stride, stride);
    }
}

// `half` and `quant` in transform order.
TARGET_INLINE void transform_blocks(const Vector (&half)[2][4], const Quantisation& quant, uint8_t* out,
                                    ptrdiff_t stride) {
    constexpr int in_order[4] = {0, 2, 1, 3};  // units hold row pairs (0, 2), (1, 3), (4, 6), (5, 7)
    Vector scaled[2][4], rows[2][4];
    for (int i = 0; i < 4; ++i) {
        scaled[0][i] = _mm512_mullo_epi16(half[0][in_order[i]], quant.even[in_order[i]]);
        scaled[1][i] = _mm512_mullo_epi16(half[1][in_order[i]], quant.odd[in_order[i]]);
    }
    transform_columns(scaled, rows);
    transform_rows(rows, out, stride);
}

// Puts coefficients beyond +-127 in their place.
TARGET __attribute__((noinline)) void replace_large_values(BlockStreams& streams, const Vector (&block)[lanes],
                                                           Vector (&half)[2][4]) {
    alignas(64) int16_t words[2][4][32];
    std::memcpy(words, half, sizeof words);
    for (size_t lane = 0; lane < lanes; ++lane)
        for (uint64_t large = _mm512_cmpeq_epi8_mask(block[lane], _mm512_set1_epi8(-128)); large; large &= large - 1) {
            const size_t p = size_t(__builtin_ctzll(large));
            words[p & 1][p >> 4][lane * 8 + (p >> 1 & 7)] = int16_t(read_large_value(streams));
        }
    std::memcpy(half, words, sizeof words);
}

TARGET_INLINE void decode_group(BlockStreams& streams, const Row& row, int x, const Quantisation& quant, uint8_t* out,
                                ptrdiff_t stride) {
    Vector block[lanes];
    for (int i = 0; i < lanes; ++i)
        block[i] = _mm512_maskz_expand_epi8(row.mask[x + i], _mm512_loadu_si512(row.values[x + i]));

    const Vector ab_low = _mm512_shuffle_i64x2(block[0], block[1], 0x44);
    const Vector ab_high = _mm512_shuffle_i64x2(block[0], block[1], 0xee);
    const Vector cd_low = _mm512_shuffle_i64x2(block[2], block[3], 0x44);
    const Vector cd_high = _mm512_shuffle_i64x2(block[2], block[3], 0xee);
    const Vector unit[4] = {
        _mm512_shuffle_i64x2(ab_low, cd_low, 0x88), _mm512_shuffle_i64x2(ab_low, cd_low, 0xdd),
        _mm512_shuffle_i64x2(ab_high, cd_high, 0x88), _mm512_shuffle_i64x2(ab_high, cd_high, 0xdd)};
    Vector half[2][4];
    for (int i = 0; i < 4; ++i) {
        half[0][i] = _mm512_srai_epi16(_mm512_slli_epi16(unit[i], 8), 8);
        half[1][i] = _mm512_srai_epi16(unit[i], 8);
    }
    const Vector least = _mm512_min_epi8(_mm512_min_epi8(block[0], block[1]), _mm512_min_epi8(block[2], block[3]));
    if (__builtin_expect(_mm512_cmpeq_epi8_mask(least, _mm512_set1_epi8(-128)) != 0, 0))
        replace_large_values(streams, block, half);
    half[0][0] = _mm512_mask_loadu_epi16(half[0][0], 0x01010101, row.dc + 8 * x);

    transform_blocks(half, quant, out, stride);
}

TARGET void decode_blocks(BlockStreams& streams, const DctComponent& component, uint8_t* scratch, uint8_t* out,
                                 ptrdiff_t stride) {
    const Quantisation quant = packed_quantisation(component.quant);
    const Row row(scratch, component.blocks_w);
    row.dc[0] = 0;
    for (int y = 0; y < component.blocks_h; ++y, out += 8 * stride) {
        read_row(streams, component.blocks_w, row.dc[0], row);
        for (int x = 0; x < row.padded; x += lanes) decode_group(streams, row, x, quant, out + 8 * x, stride);
    }
}

TARGET int inverse_dct(const int16_t* blocks, int count, const uint16_t* quant, uint8_t* out,
                              ptrdiff_t stride) {
    const auto* const steps = reinterpret_cast<const __m128i*>(quant);
    Quantisation all;
    for (int i = 0; i < 4; ++i) {
        all.even[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(steps + i));
        all.odd[i] = _mm512_broadcast_i32x4(_mm_loadu_si128(steps + 4 + i));
    }
    Vector worst = _mm512_setzero_si512();
    for (int x = 0; x < count; x += lanes) {
        const auto* const units = reinterpret_cast<const __m128i*>(blocks + 64 * x);
        Vector half[2][4], sum[2];
        for (int h = 0; h < 2; ++h) {
            sum[h] = _mm512_setzero_si512();
            for (int i = 0; i < 4; ++i) {
                const __m128i* const unit = units + 4 * h + i;
                Vector& four = half[h][i];
                four = _mm512_castsi128_si512(_mm_loadu_si128(unit));
                four = _mm512_inserti32x4(four, _mm_loadu_si128(unit + 8), 1);
                four = _mm512_inserti32x4(four, _mm_loadu_si128(unit + 16), 2);
                four = _mm512_inserti32x4(four, _mm_loadu_si128(unit + 24), 3);
                Vector magnitude = _mm512_abs_epi16(four);
                if (h == 0 && i == 0) magnitude = _mm512_min_epu16(magnitude, _mm512_set1_epi16(32767));  // DC: -32768
                sum[h] = _mm512_dpwssd_epi32(sum[h], magnitude, h ? all.odd[i] : all.even[i]);
            }
        }
        worst = _mm512_max_epi32(worst, _mm512_max_epi32(sum[0], sum[1]));
        transform_blocks(half, all, out + 8 * x, stride);
    }
    return _mm512_reduce_max_epi32(worst);
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

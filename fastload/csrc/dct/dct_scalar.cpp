// The specification of the vector versions, and what every other machine runs.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "dct_blocks.h"

namespace fastload {
namespace {

int read_rest(BlockStreams& streams) {
    if (streams.rest == streams.rest_end) throw DctError("a packed image's stream is cut short");
    return *streams.rest++;
}

// always_inline: counts with whatever instruction the caller may use.
__attribute__((always_inline)) inline size_t set_bits(const uint8_t* bytes, size_t count) {
    size_t total = 0;
    for (; count >= 8; count -= 8, bytes += 8) {
        uint64_t word;
        std::memcpy(&word, bytes, sizeof word);
        total += size_t(__builtin_popcountll(word));
    }
    for (; count; --count) total += size_t(__builtin_popcount(*bytes++));
    return total;
}

// One pass over the columns of `in`, rounded, saturated and transposed. The loops over columns are innermost so that
// compilers make vectors of them.
void transform(const int16_t* in, int shift, int16_t* out) {
    uint32_t sums[8][8];
    for (int i = 0; i < 4; ++i) {
        const auto &e = idct::even[i], &o = idct::odd[i];
        for (int c = 0; c < 8; ++c) {
            const uint32_t even = uint32_t(in[c] * e[0]) + uint32_t(in[16 + c] * e[1]) + uint32_t(in[32 + c] * e[2]) +
                                  uint32_t(in[48 + c] * e[3]) + (1u << (shift - 1));
            const uint32_t odd = uint32_t(in[8 + c] * o[0]) + uint32_t(in[24 + c] * o[1]) +
                                 uint32_t(in[40 + c] * o[2]) + uint32_t(in[56 + c] * o[3]);
            sums[i][c] = even + odd;
            sums[7 - i][c] = even - odd;
        }
    }
    for (int c = 0; c < 8; ++c)
        for (int i = 0; i < 8; ++i) out[c * 8 + i] = int16_t(std::clamp(int32_t(sums[i][c]) >> shift, -32768, 32767));
}

void inverse_dct(const int16_t* block, uint8_t* out, ptrdiff_t stride) {
    int16_t rows[64], samples[64];
    transform(block, idct::shift[0], rows);
    transform(rows, idct::shift[1], samples);
    for (int y = 0; y < 8; ++y, out += stride)
        for (int x = 0; x < 8; ++x) out[x] = uint8_t(std::clamp<int>(samples[y * 8 + x], -128, 127) + 128);
}

int16_t dequantise(int coefficient, uint16_t step) { return int16_t(uint32_t(coefficient) * step); }

void read_block(BlockStreams& streams, const uint16_t* quant, int dc, int16_t* block) {
    std::fill_n(block, 64, int16_t{0});
    const unsigned presence = *streams.presence++;
    for (int group = 0; group < 8; ++group) {
        if (!(presence >> group & 1)) continue;
        for (unsigned mask = *streams.masks++; mask; mask &= mask - 1) {
            const int position = packed_to_natural[size_t(group * 8 + __builtin_ctz(mask))];
            int value = int8_t(*streams.values++);
            if (value == -128) value = read_large_value(streams);
            block[position] = dequantise(value, quant[position]);
        }
    }
    block[0] = dequantise(dc, quant[0]);
}

}  // namespace

size_t set_bits_scalar(const uint8_t* bytes, size_t count) { return set_bits(bytes, count); }

#if defined(__x86_64__)
__attribute__((target("popcnt"))) size_t set_bits_popcnt(const uint8_t* bytes, size_t count) {
    return set_bits(bytes, count);
}
#endif

int read_large_value(BlockStreams& streams) {
    int u = read_rest(streams);
    if (u >= 128) u = (u & 127) | read_rest(streams) << 7;
    return u & 1 ? -(128 + u / 2) : 128 + u / 2;
}

void read_dc_row(BlockStreams& streams, int blocks, int above, int16_t* dc, int stride) {
    ptrdiff_t escapes = 0;
    for (int x = 0; x < blocks; ++x) escapes += streams.dc[x] >= dc_escape;
    if (escapes > streams.rest_end - streams.rest) throw DctError("a packed image's stream is cut short");
    int value = above;
    for (int x = 0; x < blocks; ++x) {
        const int byte = streams.dc[x], escape = byte >= dc_escape;
        const int large = dc_escape + (byte - dc_escape) * 256 + *streams.rest;  // at the end: a byte of padding
        const int u = escape ? large : byte;
        streams.rest += escape;
        value += (u >> 1) ^ -(u & 1);
        dc[x * stride] = int16_t(value);
    }
    streams.dc += blocks;
}

void decode_blocks_scalar(BlockStreams& streams, const DctComponent& component, uint8_t* scratch, uint8_t* out,
                          ptrdiff_t stride) {
    int16_t* const dc = reinterpret_cast<int16_t*>(scratch);
    dc[0] = 0;
    for (int y = 0; y < component.blocks_h; ++y, out += 8 * stride) {
        read_dc_row(streams, component.blocks_w, dc[0], dc, 1);
        for (int x = 0; x < component.blocks_w; ++x) {
            int16_t block[64];
            read_block(streams, component.quant, dc[x], block);
            inverse_dct(block, out + 8 * x, stride);
        }
    }
}

int inverse_dct_scalar(const int16_t* blocks, int count, const uint16_t* quant, uint8_t* out, ptrdiff_t stride) {
    int worst = 0;
    for (int x = 0; x < count; ++x, blocks += 64) {
        int16_t block[64];
        int sum[8] = {};
        for (int i = 0; i < 64; ++i) {
            const size_t place = natural_to_transform[size_t(i)];
            block[i] = dequantise(blocks[place], quant[place]);
            sum[i & 7] += std::abs(blocks[place]) * quant[place];
        }
        worst = std::max(worst, *std::max_element(sum, sum + 8));
        inverse_dct(block, out + 8 * x, stride);
    }
    return worst;
}

void apply_signs_scalar(uint8_t* values, const uint8_t* signs, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const unsigned negative = signs[i / 8] >> i % 8 & 1;
        values[i] = uint8_t((values[i] ^ -negative) + negative);
    }
}

}  // namespace fastload

// The specification: every other kernel gives the same bits. Machines without vector instructions run it.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "color_change.h"
#include "dct_blocks.h"
#include "huffman.h"
#include "jpeg_scan.h"
#include "kernels.h"
#include "pixel_format.h"
#include "region.h"
#include "resample.h"
#include "taps.h"
#include "tile.h"

#define TARGET
#include "set_bits.h"
#include "skip_blocks.h"

namespace fastload {
namespace {

int16_t saturated(int value) { return int16_t(std::clamp(value, -32768, 32767)); }

int multiply_high(int a, int b) { return (a * b + 0x4000) >> 15; }

void horizontal_four(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    for (int u = 0; u < table.axis.size; ++u) {
        const uint8_t* samples = row + table.base8[u / 8] + table.index8[2 * u + 1];
        int sum = 0;
        for (int k = 0; k < 4; ++k) {
            const int weight = table.four_weights[size_t(u / 32) * 128 + k * 32 + u % 32];
            if (weight) sum += multiply_high((samples[k] - 128) * 256, weight);
        }
        out[u] = int16_t(2 * std::clamp(sum, least_sample / 2, largest_sample / 2));
    }
}

void horizontal_signed(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    for (int u = 0; u < table.axis.size; ++u) {
        int sum = table.bias[u];
        for (int k = 0; k < table.taps; ++k) {
            const size_t group = size_t(u / 16) * (table.taps / 4) + k / 4;
            const int weight = table.signed_weights[((group * 2 + k % 2) * 16 + u % 16) * 2 + k % 4 / 2];
            if (weight) sum += weight * row[table.start[u] + k];
        }
        out[u] = int16_t(std::clamp<long>(std::lrint(float(sum) * table.norm[u]), least_sample, largest_sample));
    }
}

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
    if (!table.four_weights.empty()) return horizontal_four(row, table, out);
    if (!table.signed_weights.empty()) return horizontal_signed(row, table, out);
    if (table.taps == 2) {
        for (int u = 0; u < table.axis.size; ++u) {
            const uint8_t* samples = row + table.base8[u / 8];
            int sum = 0;
            for (int k = 2 * u; k < 2 * u + 2; ++k) sum += table.weight[k] * (samples[table.index8[k]] - 128);
            out[u] = int16_t(sum);
        }
        return;
    }
    for (int u = 0; u < table.axis.size; ++u) {
        int sum = 0;
        for (int k = 0; k < table.taps; ++k) {
            const size_t group = size_t(u / 16) * (table.taps / 4) + k / 4;
            const int weight = table.weights[(group * 16 + u % 16) * 4 + k % 4];
            if (weight) sum += weight * (row[table.start[u] + k] - 128);
        }
        out[u] = int16_t(std::lrint(float(sum) * table.norm[u]));
    }
}

void vertical(const int16_t* const* rows, const int16_t* weights, int taps, int width, int16_t* out) {
    for (int u = 0; u < width; ++u) {
        int16_t sum = 0;
        for (int k = 0; k < taps; ++k) sum = saturated(sum + multiply_high(rows[k][u], weights[k]));
        out[u] = sum;
    }
}

void color(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb) {
    const int count = planes[1] ? 3 : 1;
    for (int u = 0; u < width; ++u)
        for (int channel = 0; channel < 3; ++channel) {
            int16_t sum = 0;
            for (int p = 0; p < count; ++p)
                sum = saturated(sum + multiply_high(planes[p][u], matrix.plane[channel][p]));
            const int value = saturated(sum + matrix.offset[channel]) >> 3;
            rgb[3 * u + channel] = uint8_t(std::clamp(value, 0, 255));
        }
}

void stream(uint8_t* to, const uint8_t* from, size_t size) { std::memcpy(to, from, size); }

void recolor(uint8_t* rgb, size_t pixels, const PixelMatrix& matrix) {
    for (const uint8_t* const end = rgb + 3 * pixels; rgb < end; rgb += 3) {
        int sums[3];
        for (int c = 0; c < 3; ++c) {
            sums[c] = matrix.offset[c];
            for (int k = 0; k < 3; ++k) sums[c] += matrix.factor[c][k] * rgb[k];
        }
        for (int c = 0; c < 3; ++c) rgb[c] = uint8_t(std::clamp(sums[c] >> matrix.shift, 0, 255));
    }
}

unsigned result(const Ramp& ramp, unsigned x) {
    x = std::clamp<unsigned>(x, ramp.low, ramp.high);
    return uint16_t(x * ramp.whole + (x * ramp.fraction >> 16) + ramp.offset);
}

int over(int a, const Reciprocals& reciprocals, int n) {
    return a * reciprocals.whole(n) + multiply_high(a, reciprocals.part(n));
}

// The hue of a pixel; `value` is its largest channel and `chroma` the difference to the smallest.
int hue_of(int red, int green, int blue, int value, int chroma) {
    const bool is_red = red == value, is_green = green == value;
    const int next = is_red ? green : is_green ? blue : red, last = is_red ? blue : is_green ? red : green;
    const int center = is_red ? hue_centers[0] : is_green ? hue_centers[1] : hue_centers[2];
    return center + over(next - last, sectors_over, chroma);
}

template <HsvChange::Kind kind>
void adjust_hsv_as(uint8_t* rgb, size_t pixels, const HsvChange& given) {
    using Kind = HsvChange::Kind;
    const HsvChange change = given;
    for (const uint8_t* const end = rgb + 3 * pixels; rgb < end; rgb += 3) {
        const int red = rgb[0], green = rgb[1], blue = rgb[2];
        const int value = std::max({red, green, blue}), chroma = value - std::min({red, green, blue});
        const unsigned new_value = result(change.value, unsigned(value) << 7);
        const unsigned saturation = result(change.saturation, unsigned(over(chroma, ones_over, value)));
        const unsigned new_chroma = new_value * saturation >> 16;  // in units of 1 / 192 level
        const int hue = kind == Kind::hue ? hue_of(red, green, blue, value, chroma) + change.hue : 0;
        for (int c = 0; c < 3; ++c) {
            unsigned less = 0;  // than the value, in units of 1 / 128 level
            if constexpr (kind == Kind::hue) {
                const int distance = std::abs(int16_t(hue - hue_centers[c]));
                less = new_chroma * unsigned(4 * std::clamp(distance - (hue_sector - 1), 0, hue_sector)) >> 16;
            } else if constexpr (kind == Kind::saturation) {
                less = new_chroma * unsigned(4 * over(value - rgb[c], sectors_over, chroma)) >> 16;
            } else {
                less = new_value * unsigned(over(value - rgb[c], ones_over, value)) >> 16;
            }
            rgb[c] = uint8_t(((new_value >> 1) + 64 - less) >> 7);
        }
    }
}

void adjust_hsv(uint8_t* rgb, size_t pixels, const HsvChange& change) {
    switch (change.kind) {
        case HsvChange::Kind::none:
            return;
        case HsvChange::Kind::value:
            return adjust_hsv_as<HsvChange::Kind::value>(rgb, pixels, change);
        case HsvChange::Kind::saturation:
            return adjust_hsv_as<HsvChange::Kind::saturation>(rgb, pixels, change);
        case HsvChange::Kind::hue:
            return adjust_hsv_as<HsvChange::Kind::hue>(rgb, pixels, change);
    }
}

void look_up(uint8_t* rgb, size_t pixels, const LevelTable& table) {
    for (const uint8_t* const end = rgb + 3 * pixels; rgb < end; rgb += 3)
        for (int c = 0; c < 3; ++c) rgb[c] = table.level[c][rgb[c]];
}

// The fixed point is that of `horizontal`, `vertical` and `color`: 1/255 level after the first step, 1/8 level at last.
void warp(const Tile& tile, const TilePath& path, int count, uint8_t* rgb) {
    for (int u = 0; u < count; ++u) {
        const int x = path.x + u * path.dx, y = path.y + u * path.dy;
        const int right = x >> 8 & 255, down = (y >> 8 & 255) * 128, up = std::min(32768 - down, 32767);
        const uint8_t* const upper = tile.pixels + (y >> 16) * tile.stride + 3 * (x >> 16);
        const uint8_t* const lower = upper + tile.stride;
        for (int c = 0; c < 3; ++c) {
            const auto across = [&](const uint8_t* p) { return (255 - right) * (p[c] - 128) + right * (p[c + 3] - 128); };
            const int sum = multiply_high(across(upper), up) + multiply_high(across(lower), down);
            const int value = (multiply_high(sum, 1028) + 4) >> 3;  // 1028 = 8 / 255 * 32768, rounded
            *rgb++ = uint8_t(std::clamp(value + 128, 0, 255));
        }
    }
}

void mix(const uint8_t* over, int alpha, size_t size, uint8_t* under) {
    for (size_t i = 0; i < size; ++i) under[i] = uint8_t((over[i] * alpha + under[i] * (256 - alpha) + 128) >> 8);
}

void split(const uint8_t* rgb, int width, uint8_t* const channel[3]) {
    for (int u = 0; u < width; ++u)
        for (int c = 0; c < 3; ++c) channel[c][u] = rgb[3 * u + c];
}

void convert(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    convert_by_table(bytes, 0, count, format, channels, out);
}

// One pass over the columns of `in`, rounded, saturated and transposed. The loops over columns are innermost so that
// compilers vectorize them.
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

// The same of the first `size` columns and rows only.
void transform_reduced(const int16_t* in, int size, int shift, int16_t* out) {
    for (int c = 0; c < size; ++c)
        for (int i = 0; i < size; ++i) {
            uint32_t sum = 1u << (shift - 1);
            for (int u = 0; u < size; ++u) sum += uint32_t(in[8 * u + c] * idct::reduced(size, i, u));
            out[8 * c + i] = saturated(int32_t(sum) >> shift);
        }
}

void transform_block(const int16_t* block, int size, uint8_t* out, ptrdiff_t stride) {
    int16_t rows[64], samples[64];
    if (size == 8) {
        transform(block, idct::shift[0], rows);
        transform(rows, idct::shift[1], samples);
    } else {
        transform_reduced(block, size, idct::shift[0], rows);
        transform_reduced(rows, size, idct::shift[1], samples);
    }
    for (int y = 0; y < size; ++y, out += stride)
        for (int x = 0; x < size; ++x) out[x] = uint8_t(std::clamp<int>(samples[y * 8 + x], -128, 127) + 128);
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

void decode_blocks(BlockStreams& streams, const DctComponent& component, const BlockWindow& window, int rows,
                   uint8_t* scratch) {
    int16_t* const dc = reinterpret_cast<int16_t*>(scratch);
    dc[0] = 0;
    for (int y = 0; y < rows; ++y) {
        const bool skipped = y < window.top || y >= window.bottom;
        read_dc_row(streams, component.blocks_w, skipped ? 1 : window.right, dc[0], dc, 1);
        const int left = skipped ? component.blocks_w : window.left, right = skipped ? left : window.right;
        skip_blocks(streams, left);
        for (int x = left; x < right; ++x) {
            int16_t block[64];
            read_block(streams, component.quant, dc[x], block);
            transform_block(block, window.size, window.block(x, y), window.stride);
        }
        skip_blocks(streams, component.blocks_w - right);
    }
}

int inverse_dct(const int16_t* blocks, int count, const uint16_t* quant, int size, uint8_t* out, ptrdiff_t stride) {
    int worst = 0;
    for (int x = 0; x < count; ++x, blocks += 64) {
        int16_t block[64];
        int sum[8] = {};
        for (int i = 0; i < 64; ++i) {
            const size_t place = natural_to_transform[size_t(i)];
            block[i] = dequantise(blocks[place], quant[place]);
            if (size == 8 || i < 32) sum[i & 7] += std::abs(blocks[place]) * quant[place];
        }
        worst = std::max(worst, *std::max_element(sum, sum + 8));
        transform_block(block, size, out + size * x, stride);
    }
    return worst;
}

void apply_signs(uint8_t* values, const uint8_t* signs, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        const unsigned negative = signs[i / 8] >> i % 8 & 1;
        values[i] = uint8_t((values[i] ^ -negative) + negative);
    }
}

void weighted_sum(const float* from, const TapGrid& taps, size_t channels, bool add, float* out) {
    if (!add) std::fill_n(out, channels, 0.f);
    for (const Tap* row = taps.rows; row != taps.rows_end; ++row)
        for (const Tap* column = taps.columns; column != taps.columns_end; ++column) {
            const float weight = row->weight * column->weight;
            const float* const cell = from + row->offset + column->offset;
            for (size_t c = 0; c < channels; ++c) out[c] = std::fma(weight, cell[c], out[c]);
        }
}

}  // namespace

const Kernels scalar_kernels = {horizontal, vertical_then_color<vertical, color>, stream, recolor, adjust_hsv, look_up, warp,
                                mix, split, convert, decode_blocks, inverse_dct, apply_signs, set_bits, weighted_sum, huffman_decode,
                                decode_mcus};

}  // namespace fastload

// Blends the rows of planes and converts their colors. Each file of vector kernels includes it once, after defining
//     pack_pixels(channel, packed): clips the channels of a block of pixels and packs them. channel[h][c] has channel c
//         of half h of the block, as words.
//     streams_pixels: whether storing pixels past the caches is faster.
#pragma once

#include <algorithm>
#include <cstring>

#include "resample.h"

namespace fastload {
namespace {

constexpr int block_pixels = sizeof(Vector);  // two vectors of words

// Blends the rows of a plane.
struct Blender {
    TARGET explicit Blender(const WeightedRows& plane)
        : near(plane.rows[0]), far(plane.rows[plane.taps > 1]), rows(plane.rows), weights(plane.weights),
          taps(plane.taps), near_weight(all16(weights[0])), far_weight(all16(taps > 1 ? weights[1] : 0)) {}

    // Samples from u on; `two` means at most two taps. With more there are too few general registers to keep `near` and
    // `far` as well, so these are read again.
    template <bool two>
    TARGET_INLINE void blend(int u, Vector (&sum)[2]) const {
        const int16_t* const first = two ? near : rows[0];
        const int16_t* const second = two ? far : rows[taps > 1];
        for (int h = 0; h < 2; ++h)
            sum[h] = add_saturated16(times(first, u, h, near_weight), times(second, u, h, far_weight));
        for (int k = 2; !two && k < taps; ++k) {
            const Vector weight = all16(weights[k]);
            for (int h = 0; h < 2; ++h) sum[h] = add_saturated16(sum[h], times(rows[k], u, h, weight));
        }
    }

private:
    TARGET_INLINE static Vector times(const int16_t* row, int u, int h, Vector weight) {
        return multiply_high16(load(row + u + block_pixels / 2 * h), weight);
    }

    const int16_t *near, *far;
    const int16_t* const* rows;
    const int16_t* weights;
    int taps;
    Vector near_weight, far_weight;
};

// A color matrix as vectors.
struct Factors {
    TARGET explicit Factors(const ColorMatrix& matrix) {
        for (int c = 0; c < 3; ++c) {
            for (int p = 0; p < 3; ++p) plane[c][p] = all16(matrix.plane[c][p]);
            offset[c] = all16(matrix.offset[c]);
        }
    }
    Vector plane[3][3], offset[3];
};

// Converts a vector of samples to channels, not yet clipped.
template <Colors colors>
TARGET_INLINE void to_channels(Vector y, Vector cb, Vector cr, const Factors& factors, Vector (&channel)[3]) {
    const auto& f = factors.plane;
    if constexpr (colors == Colors::ycbcr) {
        const Vector luma = add16(multiply_high16(y, f[0][0]), factors.offset[0]);
        channel[0] = add16(luma, multiply_high16(cr, f[0][2]));
        channel[1] = add16(add16(luma, multiply_high16(cb, f[1][1])), multiply_high16(cr, f[1][2]));
        channel[2] = add16(luma, multiply_high16(cb, f[2][1]));
    } else {
        for (int c = 0; c < 3; ++c) {
            Vector sum = multiply_high16(y, f[c][0]);
            if constexpr (colors == Colors::any)
                sum = add_saturated16(add_saturated16(sum, multiply_high16(cb, f[c][1])), multiply_high16(cr, f[c][2]));
            channel[c] = add_saturated16(sum, factors.offset[c]);
        }
    }
    for (Vector& value : channel) value = shift_right16(value, 3);
}

// A block of pixels from u on, packed.
template <Colors colors, bool two>
TARGET_INLINE void blend_pixels(const Blender& luma, const Blender& blue, const Blender& red, const Factors& factors,
                                int u, Vector (&packed)[3]) {
    Vector y[2], cb[2] = {}, cr[2] = {}, channel[2][3];
    luma.blend<two>(u, y);
    if constexpr (colors != Colors::grey) {
        blue.blend<two>(u, cb);
        red.blend<two>(u, cr);
    }
    for (int h = 0; h < 2; ++h) to_channels<colors>(y[h], cb[h], cr[h], factors, channel[h]);
    pack_pixels(channel, packed);
}

template <Colors colors, bool two>
TARGET void blend_as(const WeightedRows* rows, const ColorMatrix& matrix, int width, uint8_t* rgb, uint8_t* canvas) {
    constexpr bool grey = colors == Colors::grey;
    const Factors factors(matrix);
    const Blender luma(rows[0]), blue(rows[grey ? 0 : 1]), red(rows[grey ? 0 : 2]);
    const int whole = width / block_pixels * block_pixels;
    Vector packed[3];
    if (whole < width) {  // first: reading this soon after stores past the caches would wait for them
        blend_pixels<colors, two>(luma, blue, red, factors, whole, packed);
        uint8_t* out = rgb + 3 * whole;
        for (int i = 0, left = 3 * (width - whole); left > 0; ++i, left -= block_pixels, out += block_pixels)
            store_bytes(out, packed[i], std::min(left, block_pixels));
    }
    for (int u = 0; u < whole; u += block_pixels) {
        blend_pixels<colors, two>(luma, blue, red, factors, u, packed);
        uint8_t* const out = (streams_pixels && canvas ? canvas : rgb) + 3 * u;
        for (int i = 0; i < 3; ++i)
            streams_pixels && canvas ? store_past_caches(out + block_pixels * i, packed[i])
                                     : store(out + block_pixels * i, packed[i]);
    }
}

template <bool two>
void blend_rows(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb,
                uint8_t* canvas) {
    if (count == 1) return blend_as<Colors::grey, two>(planes, matrix, width, rgb, canvas);
    shares_luma(matrix) ? blend_as<Colors::ycbcr, two>(planes, matrix, width, rgb, canvas)
                        : blend_as<Colors::any, two>(planes, matrix, width, rgb, canvas);
}

int blend(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb, uint8_t* canvas) {
    if (!streams_pixels || reinterpret_cast<uintptr_t>(canvas) % sizeof(Vector)) canvas = nullptr;
    const bool two = std::all_of(planes, planes + count, [](const WeightedRows& plane) { return plane.taps <= 2; });
    two ? blend_rows<true>(planes, count, matrix, width, rgb, canvas)
        : blend_rows<false>(planes, count, matrix, width, rgb, canvas);
    return canvas ? width / block_pixels * block_pixels : 0;
}

TARGET void stream(uint8_t* to, const uint8_t* from, size_t size) {
    size_t i = std::min(size, size_t(-reinterpret_cast<uintptr_t>(to) % sizeof(Vector)));
    std::memcpy(to, from, i);
    for (; i + sizeof(Vector) <= size; i += sizeof(Vector)) store_past_caches(to + i, load(from + i));
    std::memcpy(to + i, from + i, size - i);
}

}  // namespace
}  // namespace fastload

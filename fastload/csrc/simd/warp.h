// Samples tiles and mixes pixels. Each file of vector kernels includes it once, after defining
//     store_pixels(bytes, out): packs the pixels of a block without their fourth bytes. Each lane has two pixels of the
//         first half of the block and then two of the second.
#pragma once

#include <algorithm>
#include <cstring>

#include "tile.h"

namespace fastload {
namespace {

constexpr int warp_pixels = sizeof(Vector) / 4;  // a block

// Pixels of half a block, as words: four for each pixel, the last of which means nothing.
TARGET_INLINE Vector sample_half(const Tile& tile, Half x, Half y) {
    const Half place = add32(multiply32(shift_right32(y, 16), all32_half(tile.stride)),
                             add32(shift_right32(x, 16), add32(shift_right32(x, 16), shift_right32(x, 16))));
    // A load has a pixel and its right neighbor: red, green, blue, red, green, blue, two other bytes.
    const Vector neighbors = all_lanes(_mm_setr_epi8(0, 3, 1, 4, 2, 5, 6, 7, 8, 11, 9, 12, 10, 13, 14, 15));
    const Vector upper = bit_xor(shuffle8(load_places(tile.pixels, place), neighbors), all8(-128));
    const Vector lower = bit_xor(shuffle8(load_places(tile.pixels + tile.stride, place), neighbors), all8(-128));
    const Vector right = all_lanes(_mm_setr_epi8(1, 1, 1, 1, 1, 1, 1, 1, 9, 9, 9, 9, 9, 9, 9, 9));
    const Vector across = bit_xor(shuffle8(widen32(x), right), all16(255));  // 255 - fraction, fraction
    const Vector word = all_lanes(_mm_setr_epi8(1, -1, 1, -1, 1, -1, 1, -1, 9, -1, 9, -1, 9, -1, 9, -1));
    const Vector down = shift_left16(shuffle8(widen32(y), word), 7);
    const Vector up = min_unsigned16(subtract16(all16(-32768), down), all16(32767));
    const Vector sum = add16(multiply_high16(dot8(across, upper), up), multiply_high16(dot8(across, lower), down));
    return shift_right16(add16(multiply_high16(sum, all16(1028)), all16(4)), 3);
}

TARGET_INLINE Vector sample_block(const Tile& tile, Vector x, Vector y) {
    const Vector first = sample_half(tile, lower_half(x), lower_half(y));
    const Vector second = sample_half(tile, upper_half(x), upper_half(y));
    return bit_xor(pack16(first, second), all8(-128));
}

TARGET void warp(const Tile& tile, const TilePath& path, int count, uint8_t* rgb) {
    const Tile source = tile;  // stores may alias `tile`
    const Vector step_x = all32(path.dx), step_y = all32(path.dy);
    const auto at = [&](Vector number, int start, Vector step) TARGET { return add32(all32(start), multiply32(number, step)); };
    Vector x = at(counting32(), path.x, step_x), y = at(counting32(), path.y, step_y);
    int u = 0;
    for (; u + warp_pixels <= count; u += warp_pixels, rgb += 3 * warp_pixels) {
        store_pixels(sample_block(source, x, y), rgb);
        x = add32(x, shift_left32(step_x, block_shift));
        y = add32(y, shift_left32(step_y, block_shift));
    }
    if (u == count) return;
    const Vector number = min32(add32(counting32(), all32(u)), all32(count - 1));  // no point beyond the last
    uint8_t rest[3 * warp_pixels];
    store_pixels(sample_block(source, at(number, path.x, step_x), at(number, path.y, step_y)), rest);
    std::memcpy(rgb, rest, size_t(3) * (count - u));
}

TARGET_INLINE Vector mix_words(Vector over, Vector under, Vector alpha, Vector beta) {
    const Vector sum = add16(multiply16(over, alpha), multiply16(under, beta));
    return shift_right_unsigned16(add16(sum, all16(128)), 8);
}

TARGET void mix(const uint8_t* over, int alpha, size_t size, uint8_t* under) {
    const Vector weight = all16(alpha), rest = all16(256 - alpha), none = zeros();
    size_t i = 0;
    for (; i + sizeof(Vector) <= size; i += sizeof(Vector)) {
        const Vector o = load(over + i), u = load(under + i);
        const Vector low = mix_words(unpack_low8(o, none), unpack_low8(u, none), weight, rest);
        const Vector high = mix_words(unpack_high8(o, none), unpack_high8(u, none), weight, rest);
        store(under + i, pack_unsigned16(low, high));
    }
    scalar_kernels.mix(over + i, alpha, size - i, under + i);
}

}  // namespace
}  // namespace fastload

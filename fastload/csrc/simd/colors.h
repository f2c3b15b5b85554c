// Changes the colors of packed pixels, see color_change.h. Each file of vector kernels includes it once, after defining
//     pack_pixels(channel, packed): see blend.h.
//     pack_channels(channel, packed): packs the bytes of a block of pixels; in unpack_channels' order.
//     unpack_channels(rgb, channel): reads a block of pixels; the lower and upper half of each lane of channel[c] belong
//         to the two halves of the block, in the order of pack_pixels.
//     reciprocals(n, table, whole, part): of bytes, as words; whole[h] and part[h] of half h.
#pragma once

#include <algorithm>
#include <cstring>

#include "color_change.h"

namespace fastload {
namespace {

// The words of both halves of a block's bytes.
TARGET_INLINE void widen(Vector bytes, Vector (&words)[2]) {
    words[0] = unpack_low8(bytes, zeros());
    words[1] = unpack_high8(bytes, zeros());
}

// Calls change(rgb) for each block of pixels in place; the last one is padded.
template <class Change>
TARGET_INLINE void for_blocks(uint8_t* rgb, size_t pixels, const Change& change) {
    size_t i = 0;
    for (; i + block_pixels <= pixels; i += block_pixels) change(rgb + 3 * i);
    if (i == pixels) return;
    uint8_t rest[3 * block_pixels] = {};
    std::memcpy(rest, rgb + 3 * i, 3 * (pixels - i));
    change(rest);
    std::memcpy(rgb + 3 * i, rest, 3 * (pixels - i));
}

TARGET_INLINE void store_packed(uint8_t* rgb, const Vector (&packed)[3]) {
    for (int i = 0; i < 3; ++i) store(rgb + block_pixels * i, packed[i]);
}

struct Recolor {
    TARGET explicit Recolor(const PixelMatrix& matrix) : shift(_mm_cvtsi32_si128(matrix.shift)) {
        for (int c = 0; c < 3; ++c) {
            const auto& factor = matrix.factor[c];
            red_green[c] = all32(int32_t(uint32_t(uint16_t(factor[0])) | uint32_t(uint16_t(factor[1])) << 16));
            blue[c] = all32(uint16_t(factor[2]));
            offset[c] = all32(matrix.offset[c]);
        }
    }

    // Two neighbours of each 32 bits of `rg`: red and green of a pixel; of `b`: blue and zero.
    TARGET_INLINE Vector channel(int c, Vector rg, Vector b) const {
        return shift_right32(add_dot16(add_dot16(offset[c], rg, red_green[c]), b, blue[c]), shift);
    }

    TARGET_INLINE void operator()(uint8_t* rgb) const {
        Vector from[3], to[2][3], packed[3];
        unpack_channels(rgb, from);
        const Vector red_green[2] = {unpack_low8(from[0], from[1]), unpack_high8(from[0], from[1])};
        Vector blue[2];
        widen(from[2], blue);
        for (int h = 0; h < 2; ++h) {
            Vector rg[2];
            widen(red_green[h], rg);
            const Vector b[2] = {unpack_low16(blue[h], zeros()), unpack_high16(blue[h], zeros())};
            for (int c = 0; c < 3; ++c) to[h][c] = pack32(channel(c, rg[0], b[0]), channel(c, rg[1], b[1]));
        }
        pack_pixels(to, packed);
        store_packed(rgb, packed);
    }

    __m128i shift;
    Vector red_green[3], blue[3], offset[3];
};

TARGET void recolor(uint8_t* rgb, size_t pixels, const PixelMatrix& matrix) {
    for_blocks(rgb, pixels, Recolor(matrix));
}

struct Limits {
    TARGET explicit Limits(const Ramp& ramp)
        : low(all16(ramp.low)), high(all16(ramp.high)), whole(all16(ramp.whole)), fraction(all16(ramp.fraction)),
          offset(all16(ramp.offset)) {}
    TARGET_INLINE Vector result(Vector x) const {
        x = min_unsigned16(max_unsigned16(x, low), high);
        return add16(add16(multiply16(x, whole), multiply_high_unsigned16(x, fraction)), offset);
    }
    Vector low, high, whole, fraction, offset;
};

// A numerator's quotients by a block of bytes.
struct Over {
    TARGET_INLINE Over(const Reciprocals& table, Vector n) { reciprocals(n, table, whole, part); }
    TARGET_INLINE Vector times(Vector a, int h) const {
        return add16(multiply16(a, whole[h]), multiply_high16(a, part[h]));
    }
    Vector whole[2], part[2];
};

template <HsvChange::Kind kind>
struct AdjustHsv {
    TARGET explicit AdjustHsv(const HsvChange& change) : saturation(change.saturation), value(change.value) {
        for (int c = 0; c < 3; ++c) center[c] = all16(hue_centers[c] - change.hue);
    }

    // What a kind does not use is not computed.
    TARGET_INLINE void operator()(uint8_t* rgb) const {
        Vector from[3], to[2][3], packed[3];
        unpack_channels(rgb, from);
        const Vector largest = max_unsigned8(max_unsigned8(from[0], from[1]), from[2]);
        Vector level[2];
        widen(largest, level);
        const Over value_share(ones_over, largest);
        Vector difference[2], base[2], under[3][2];
        const Vector chroma = subtract8(largest, min_unsigned8(min_unsigned8(from[0], from[1]), from[2]));
        const Over chroma_share(sectors_over, chroma);
        widen(chroma, difference);
        for (int c = 0; c < 3; ++c) widen(subtract8(largest, from[c]), under[c]);
        hue_of(from, largest, chroma_share, base);
        for (int h = 0; h < 2; ++h) {
            const Vector new_value = value.result(shift_left16(level[h], 7));
            const Vector new_saturation = saturation.result(value_share.times(difference[h], h));
            const Vector new_chroma = multiply_high_unsigned16(new_value, new_saturation);
            const Vector top = add16(shift_right_unsigned16(new_value, 1), all16(64));
            for (int c = 0; c < 3; ++c) {
                Vector less;
                if constexpr (kind == HsvChange::Kind::hue) {
                    const Vector distance = absolute16(subtract16(base[h], center[c]));
                    const Vector beyond = subtract_saturated_unsigned16(distance, all16(hue_sector - 1));
                    const Vector below = min_unsigned16(beyond, all16(hue_sector));
                    less = multiply_high_unsigned16(new_chroma, shift_left16(below, 2));
                } else if constexpr (kind == HsvChange::Kind::saturation) {
                    const Vector below = chroma_share.times(under[c][h], h);
                    less = multiply_high_unsigned16(new_chroma, shift_left16(below, 2));
                } else {
                    less = multiply_high_unsigned16(new_value, value_share.times(under[c][h], h));
                }
                to[h][c] = shift_right_unsigned16(subtract16(top, less), 7);
            }
        }
        pack_pixels(to, packed);
        store_packed(rgb, packed);
    }

    TARGET_INLINE static void hue_of(const Vector (&from)[3], Vector largest, const Over& share, Vector (&hue)[2]) {
        const Vector red = from[0], green = from[1], blue = from[2];
        // whose channel is the largest, the first if several are: the two that follow it, and its center
        const Vector after = select_equal8(green, largest, blue, red), before = select_equal8(green, largest, red, green);
        const Vector not_red = select_equal8(green, largest, all8(0x55), all8(0xaa));
        Vector next[2], last[2];
        widen(select_equal8(red, largest, green, after), next);
        widen(select_equal8(red, largest, blue, before), last);
        const Vector center = select_equal8(red, largest, zeros(), not_red);
        const Vector centers[2] = {unpack_low8(center, center), unpack_high8(center, center)};
        for (int h = 0; h < 2; ++h) hue[h] = add16(centers[h], share.times(subtract16(next[h], last[h]), h));
    }

    Limits saturation, value;
    Vector center[3];
};

template <HsvChange::Kind kind>
TARGET void adjust_hsv_as(uint8_t* rgb, size_t pixels, const HsvChange& change) {
    for_blocks(rgb, pixels, AdjustHsv<kind>(change));
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

}  // namespace
}  // namespace fastload

// Changes of the colors of packed RGB pixels, in the kernels' fixed point, and tables that are computed from histograms.
// fastload/engines/adjust.py is the specification in floating point.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastload {

// RGB = (factor * RGB + offset) >> shift, clipped. The offset includes a half, so the result is rounded to nearest.
struct PixelMatrix {
    static constexpr float largest_factor = 8, largest_offset = 2048;  // larger ones are clipped
    int16_t factor[3][3];  // [channel][channel of the source]
    int32_t offset[3];
    int shift;
};

// From a plan's color matrix. Results differ from exact ones by at most .1 level before rounding.
PixelMatrix pixel_matrix(const float color[3][4]);

// clip(gain * x + offset) of unsigned 16-bit numbers. x is clipped first, to the values whose result is in range, so that
// no sum needs more than 16 bits.
struct Ramp {
    uint16_t low, high;        // the range of x
    uint16_t whole, fraction;  // of the gain, the latter in units of 1 / 65536
    uint16_t offset;
};

// A change of hue, saturation and value.
struct HsvChange {
    static constexpr float largest_gain = 8, largest_shift = 8, largest_value_shift = 2048;  // larger ones are clipped
    enum class Kind { none, value, saturation, hue };  // what changes; each includes those before it
    Kind kind;
    Ramp saturation;  // from units of 1 / 32768 to units of 1 / whole_saturation
    Ramp value;       // from units of 1 / 128 level to units of 1 / 256
    uint16_t hue;     // in units of 1 / 65536 turn
};

constexpr int whole_saturation = 49152;

// Units of hue between the centers of red, green and blue, and half of that: a sector. The centers are bytes repeated.
constexpr int hue_centers[3] = {0x0000, 0x5555, 0xaaaa}, hue_sector = 10923;

// From a plan's `hsv`: hue shift, saturation gain and shift, value gain and shift.
HsvChange hsv_change(const float hsv[5]);

// numerator / n for bytes n, as whole + part / 32768; 0 for n = 0. So a * numerator / n is a * whole + ((a * part +
// 0x4000) >> 15), which takes 16 bits if |a| <= n.
struct Reciprocals {
    static constexpr int bits = 8;  // of the fraction
    int32_t numerator;              // 2**bits times it
    struct Bytes {
        alignas(64) uint8_t upper[256], lower[256], part[256];
    } bytes;  // of whole, and the upper byte of 2 * part
    constexpr explicit Reciprocals(int32_t numerator) : numerator(numerator), bytes() {
        for (int n = 1; n < 256; ++n) {
            const int32_t value = (numerator + n / 2) / n;
            bytes.upper[n] = uint8_t(value >> (bits + 8));
            bytes.lower[n] = uint8_t(value >> bits);
            bytes.part[n] = uint8_t(value);
        }
    }
    constexpr int whole(int n) const { return bytes.upper[n] << 8 | bytes.lower[n]; }
    constexpr int part(int n) const { return bytes.part[n] << 7; }
};

constexpr Reciprocals sectors_over{2796203};  // hue_sector / n, by a third of a unit less
constexpr Reciprocals ones_over{1 << 23};     // 32768 / n

// The new level of each level of red, green and blue.
struct LevelTable {
    uint8_t level[3][256];
};

// How many pixels have each level of red, green and blue.
struct Histogram {
    uint32_t count[3][256];
};

// Adds pixels to a histogram.
void count_levels(const uint8_t* rgb, size_t pixels, Histogram& histogram);

// Those of PIL's ImageOps.autocontrast(cutoff=0) and ImageOps.equalize.
LevelTable autocontrast_table(const Histogram& histogram);
LevelTable equalize_table(const Histogram& histogram);

}  // namespace fastload

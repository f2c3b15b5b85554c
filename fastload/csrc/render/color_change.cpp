#include "color_change.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastload {
namespace {

// The first number of 0 to `last` for which `holds` is true, as it is for all that follow; last + 1 if there is none.
template <class Holds>
int first_of(int last, Holds holds) {
    int first = 0;
    for (int end = last + 1; first < end;) {
        const int middle = (first + end) / 2;
        if (holds(middle))
            end = middle;
        else
            first = middle + 1;
    }
    return first;
}

// `gain` is in units of the result by those of x, `offset` in units of the result.
Ramp ramp(double gain, double offset, int largest_x, int largest) {
    const int64_t fixed = std::llround(gain * 65536), start = std::llround(offset);
    const auto result = [&](int x) { return (x * fixed >> 16) + start; };
    if (result(largest_x) < 0) return {0, 0, 0, 0, 0};
    if (result(0) > largest) return {0, 0, 0, 0, uint16_t(largest)};
    const int low = first_of(largest_x, [&](int x) { return result(x) >= 0; });
    const int high = first_of(largest_x, [&](int x) { return result(x) > largest; }) - 1;
    return {uint16_t(low), uint16_t(high), uint16_t(fixed >> 16), uint16_t(fixed), uint16_t(start)};
}

double limited(float value, float limit) { return std::clamp(value, -limit, limit); }

LevelTable identity_table() {
    LevelTable table;
    for (auto& channel : table.level) std::iota(channel, channel + 256, uint8_t{0});
    return table;
}

}  // namespace

PixelMatrix pixel_matrix(const float color[3][4]) {
    const auto factor = [&](int c, int k) { return limited(color[c][k], PixelMatrix::largest_factor); };
    double largest = 0;
    for (int c = 0; c < 3; ++c)
        for (int k = 0; k < 3; ++k) largest = std::max(largest, std::abs(factor(c, k)));
    PixelMatrix matrix{};
    matrix.shift = 15;
    while (std::lround(std::ldexp(largest, matrix.shift)) > 32767) --matrix.shift;
    for (int c = 0; c < 3; ++c) {
        for (int k = 0; k < 3; ++k) matrix.factor[c][k] = int16_t(std::lround(std::ldexp(factor(c, k), matrix.shift)));
        const double offset = limited(color[c][3], PixelMatrix::largest_offset);
        matrix.offset[c] = int32_t(std::lround(std::ldexp(offset + .5, matrix.shift)));
    }
    return matrix;
}

HsvChange hsv_change(const float hsv[5]) {
    const auto gain = [](float value) { return double(std::clamp(value, 0.f, HsvChange::largest_gain)); };
    HsvChange change{};
    change.saturation = ramp(gain(hsv[1]) * whole_saturation / 32768, limited(hsv[2], HsvChange::largest_shift) * whole_saturation,
                             32768, whole_saturation);
    change.value = ramp(gain(hsv[3]) * 2, limited(hsv[4], HsvChange::largest_value_shift) * 256, 255 * 128, 255 * 256);
    change.hue = uint16_t(std::lround((double(hsv[0]) - std::floor(double(hsv[0]))) * 65536));
    // Where grays gain saturation, they become red, so that the hue is needed.
    const bool turns = change.hue != 0 || hsv[2] > 0, saturates = hsv[1] != 1 || hsv[2] != 0;
    const bool brightens = hsv[3] != 1 || hsv[4] != 0;
    using Kind = HsvChange::Kind;
    change.kind = turns ? Kind::hue : saturates ? Kind::saturation : brightens ? Kind::value : Kind::none;
    return change;
}

void count_levels(const uint8_t* rgb, size_t pixels, Histogram& histogram) {
    Histogram odd{};  // of every second pixel: to count equal neighbors in one place takes longer
    size_t i = 0;
    for (; i + 2 <= pixels; i += 2)
        for (size_t c = 0; c < 3; ++c) {
            ++histogram.count[c][rgb[3 * i + c]];
            ++odd.count[c][rgb[3 * i + 3 + c]];
        }
    for (size_t c = 0; c < 3; ++c) {
        if (i < pixels) ++histogram.count[c][rgb[3 * i + c]];
        for (int level = 0; level < 256; ++level) histogram.count[c][level] += odd.count[c][level];
    }
}

LevelTable autocontrast_table(const Histogram& histogram) {
    LevelTable table = identity_table();
    for (int c = 0; c < 3; ++c) {
        const uint32_t* const count = histogram.count[c];
        int low = 0, high = 255;
        while (low < high && !count[low]) ++low;
        while (high > low && !count[high]) --high;
        if (high == low) continue;
        const double scale = 255. / (high - low), offset = -low * scale;
        for (int level = 0; level < 256; ++level) {
            const volatile double product = level * scale;  // volatile: not fused with the sum, as in Pillow
            table.level[c][level] = uint8_t(std::clamp(int(product + offset), 0, 255));
        }
    }
    return table;
}

LevelTable equalize_table(const Histogram& histogram) {
    LevelTable table = identity_table();
    for (int c = 0; c < 3; ++c) {
        uint64_t sum = 0, last = 0;
        for (const uint32_t count : histogram.count[c])
            if (count) sum += last = count;
        const uint64_t step = (sum - last) / 255;
        if (!step) continue;
        uint64_t below = step / 2;
        for (int level = 0; level < 256; ++level) {
            table.level[c][level] = uint8_t(std::min<uint64_t>(below / step, 255));
            below += histogram.count[c][level];
        }
    }
    return table;
}

}  // namespace fastload

// The specification: every other kernel gives these bits.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "resample.h"

namespace fastload {
namespace {

int16_t saturated(int value) { return int16_t(std::clamp(value, -32768, 32767)); }

int multiply_high(int a, int b) { return (a * b + 0x4000) >> 15; }

void horizontal(const uint8_t* row, const HorizontalTable& table, int16_t* out) {
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

}  // namespace

const Kernels scalar_kernels = {horizontal, vertical_then_color<vertical, color>, stream};

}  // namespace fastload

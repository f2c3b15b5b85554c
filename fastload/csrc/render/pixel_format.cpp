#include "pixel_format.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

namespace fastload {
namespace {

uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// The bits of a float that is not NaN, without the lowest `dropped` ones, rounded to nearest even.
uint32_t rounded(uint32_t bits, int dropped) {
    const uint32_t half = (1u << (dropped - 1)) - 1;
    return (bits + half + (bits >> dropped & 1)) >> dropped;
}

uint32_t to_half(float value) {
    constexpr uint32_t least_normal = 113u << 23, infinity = 143u << 23;  // 2^-14, 2^16
    const uint32_t sign = bits_of(value) >> 16 & 0x8000, magnitude = bits_of(value) & 0x7fffffff;
    if (magnitude >= infinity) return sign | 0x7c00;
    if (magnitude < least_normal) return sign | uint32_t(std::nearbyint(std::abs(value) * 0x1p24f));
    return sign | rounded(magnitude - (112u << 23), 13);
}

uint32_t sample_of(Sample sample, int level, float value) {
    switch (sample) {
        case Sample::f32:
            return bits_of(value);
        case Sample::bf16:
            return rounded(bits_of(value), 16);
        case Sample::f16:
            return to_half(value);
        default:
            return uint32_t(level);
    }
}

// Rounds a product as the kernels do.
uint32_t sample_of_product(Sample sample, float value) {
    return sample == Sample::bf16 ? (bits_of(value) + 0x8000) >> 16 : to_half(value);
}

float corrected(float x, float std, float reciprocal) {
    const float q = x * reciprocal;
    return std::fma(std::fma(-q, std, x), reciprocal, q);
}

template <class T>
void look_up(const uint8_t* bytes, size_t begin, size_t end, const PixelFormat& format, Channels channels,
             uint8_t* out) {
    const bool all = channels == Channels::all;
    const uint32_t* table[3];
    for (size_t k = 0; k < 3; ++k) table[k] = format.table[all ? (begin + k) % 3 : size_t(channels)];
    size_t k = 0;
    for (size_t i = begin; i < end; ++i) {
        const T value = T(table[k][bytes[i]]);
        std::memcpy(out + i * sizeof value, &value, sizeof value);
        k = k == 2 ? 0 : k + 1;
    }
}

}  // namespace

PixelFormat::PixelFormat(Sample sample, bool planar, const std::array<float, 3>& mean, const std::array<float, 3>& std)
    : sample(sample), planar(planar) {
    bool products_do = sample == Sample::bf16 || sample == Sample::f16, corrected_do = true;
    for (size_t c = 0; c < 3; ++c) {
        if (!std::isfinite(mean[c]) || !std::isfinite(std[c]) || std[c] <= 0)
            throw std::invalid_argument("means must be finite, and deviations finite and above 0");
        const float inverse = 1 / std[c];
        for (size_t i = c; i < cycle; i += 3) {
            this->mean[i] = mean[c];
            this->std[i] = std[c];
            reciprocal[i] = inverse;
        }
        for (int level = 0; level < 256; ++level) {
            const float x = float(level) - mean[c], quotient = x / std[c];
            table[c][level] = sample_of(sample, level, quotient);
            products_do = products_do && sample_of_product(sample, x * inverse) == table[c][level];
            corrected_do = corrected_do && bits_of(corrected(x, std[c], inverse)) == bits_of(quotient);
        }
    }
    way = products_do ? Way::product : corrected_do ? Way::corrected : Way::table;
}

const std::shared_ptr<const PixelFormat>& packed_bytes() {
    static const auto format = std::make_shared<const PixelFormat>();
    return format;
}

void convert_by_table(const uint8_t* bytes, size_t begin, size_t end, const PixelFormat& format, Channels channels,
                      uint8_t* out) {
    format.sample == Sample::f32 ? look_up<uint32_t>(bytes, begin, end, format, channels, out)
                                 : look_up<uint16_t>(bytes, begin, end, format, channels, out);
}

}  // namespace fastload

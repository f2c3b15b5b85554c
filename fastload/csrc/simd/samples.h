// Converts bytes to samples of a canvas's format, as specified by pixel_format.cpp. Each file of vector kernels
// includes it once, after its vector.
#pragma once

#include <algorithm>

#include "pixel_format.h"

namespace fastload {
namespace {

constexpr size_t vector_floats = sizeof(Floats) / sizeof(float);

// Three consecutive vectors of the constants of samples, starting with channel `first`.
struct Constants {
    TARGET Constants(const PixelFormat& format, Channels channels, size_t first) {
        for (size_t k = 0; k < 3; ++k) {
            const bool all = channels == Channels::all;
            const size_t i = all ? first + vector_floats * k : size_t(channels);
            mean[k] = all ? load_floats(format.mean + i) : all_floats(format.mean[i]);
            std[k] = all ? load_floats(format.std + i) : all_floats(format.std[i]);
            reciprocal[k] = all ? load_floats(format.reciprocal + i) : all_floats(format.reciprocal[i]);
        }
    }
    Floats mean[3], std[3], reciprocal[3];
};

// A vector of quotients.
template <int k, bool product>
TARGET_INLINE Floats quotients(const uint8_t* bytes, const Constants& constants) {
    const Floats x = subtract(floats_of_bytes(bytes), constants.mean[k]);
    const Floats q = multiply(x, constants.reciprocal[k]);
    if constexpr (product) return q;
    return multiply_add(subtract_product(x, q, constants.std[k]), constants.reciprocal[k], q);
}

// The upper half of each sum is its bfloat16.
template <bool product>
TARGET_INLINE Vector rounded(Floats values) {
    const Vector bits = bits_of(values);
    if constexpr (product) return add32(bits, all32(0x8000));
    const Vector odd = bit_and(shift_right_unsigned32(bits, 16), all32(1));
    return add32(add32(bits, odd), all32(0x7fff));
}

// A vector of samples; `place` is its number among three.
template <Sample sample, int place, bool product>
TARGET_INLINE void store_samples(const uint8_t* bytes, const Constants& constants, uint8_t* out) {
    if constexpr (sample == Sample::f32) {
        store_past_caches(out, bits_of(quotients<place, product>(bytes, constants)));
    } else {
        const Floats low = quotients<2 * place % 3, product>(bytes, constants);
        const Floats high = quotients<(2 * place + 1) % 3, product>(bytes + vector_floats, constants);
        store_past_caches(out, sample == Sample::bf16 ? upper_halves(rounded<product>(low), rounded<product>(high))
                                                      : float16_of(low, high));
    }
}

template <Sample sample, bool product>
TARGET void convert_to(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    constexpr size_t size = sample == Sample::f32 ? 4 : 2, step = sizeof(Vector) / size;
    size_t i = std::min(size_t(-reinterpret_cast<uintptr_t>(out) % sizeof(Vector)) / size, count);
    convert_by_table(bytes, 0, i, format, channels, out);
    const Constants constants(format, channels, i % 3);
    for (; i + 3 * step <= count; i += 3 * step) {
        store_samples<sample, 0, product>(bytes + i, constants, out + size * i);
        store_samples<sample, 1, product>(bytes + i + step, constants, out + size * (i + step));
        store_samples<sample, 2, product>(bytes + i + 2 * step, constants, out + size * (i + 2 * step));
    }
    if (i + step <= count) store_samples<sample, 0, product>(bytes + i, constants, out + size * i), i += step;
    if (i + step <= count) store_samples<sample, 1, product>(bytes + i, constants, out + size * i), i += step;
    convert_by_table(bytes, i, count, format, channels, out);
}

template <bool product>
void convert_by(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    switch (format.sample) {
        case Sample::f32:
            return convert_to<Sample::f32, false>(bytes, count, format, channels, out);
        case Sample::bf16:
            return convert_to<Sample::bf16, product>(bytes, count, format, channels, out);
        default:
            return convert_to<Sample::f16, product>(bytes, count, format, channels, out);
    }
}

void convert(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    if (format.way == PixelFormat::Way::table || reinterpret_cast<uintptr_t>(out) % format.sample_bytes())
        return convert_by_table(bytes, 0, count, format, channels, out);
    format.way == PixelFormat::Way::product ? convert_by<true>(bytes, count, format, channels, out)
                                            : convert_by<false>(bytes, count, format, channels, out);
}

}  // namespace
}  // namespace fastload

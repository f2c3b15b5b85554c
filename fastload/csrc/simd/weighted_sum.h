// Sums rows of floats over a grid of taps, as in scalar.cpp. Each file of vector kernels includes it once, after its
// vector.
#pragma once

#include <cmath>

#include "taps.h"

namespace fastload {
namespace {

constexpr size_t floats_per_vector = sizeof(Floats) / sizeof(float);

// `count` vectors of the sum.
template <size_t count>
TARGET_INLINE void sum_vectors(const float* from, const TapGrid& taps, bool add, float* out) {
    Floats sum[count];
    for (size_t i = 0; i < count; ++i) sum[i] = add ? load_floats(out + floats_per_vector * i) : all_floats(0);
    for (const Tap* row = taps.rows; row != taps.rows_end; ++row) {
        const float* const cells = from + row->offset;
        for (const Tap* column = taps.columns; column != taps.columns_end; ++column) {
            const Floats weight = all_floats(row->weight * column->weight);
            const float* const cell = cells + column->offset;
            for (size_t i = 0; i < count; ++i)
                sum[i] = multiply_add(weight, load_floats(cell + floats_per_vector * i), sum[i]);
        }
    }
    for (size_t i = 0; i < count; ++i) store(out + floats_per_vector * i, bits_of(sum[i]));
}

TARGET void weighted_sum(const float* from, const TapGrid& given, size_t channels, bool add, float* out) {
    const TapGrid taps = given;
    constexpr size_t block = 8 * floats_per_vector;
    size_t c = 0;
    for (; c + block <= channels; c += block) sum_vectors<8>(from + c, taps, add, out + c);
    if (c + block / 2 <= channels) {
        sum_vectors<4>(from + c, taps, add, out + c);
        c += block / 2;
    }
    for (; c + floats_per_vector <= channels; c += floats_per_vector) sum_vectors<1>(from + c, taps, add, out + c);
    if (c < channels) scalar_kernels.weighted_sum(from + c, taps, channels - c, add, out + c);
}

}  // namespace
}  // namespace fastload

// Counts bits with the best available instruction. Each file of kernels includes it once, after its TARGET.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastload {
namespace {

TARGET size_t set_bits(const uint8_t* bytes, size_t count) {
    size_t total = 0;
    for (; count >= 8; count -= 8, bytes += 8) {
        uint64_t word;
        std::memcpy(&word, bytes, sizeof word);
        total += size_t(__builtin_popcountll(word));
    }
    for (; count; --count) total += size_t(__builtin_popcount(*bytes++));
    return total;
}

}  // namespace
}  // namespace fastload

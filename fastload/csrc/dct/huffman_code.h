// Code lengths of a Huffman code: choosing, writing and reading them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastload {

constexpr int huffman_max_length = 11;

// Per symbol the length of its code, 0 for a symbol without one.
using CodeLengths = std::array<uint8_t, 256>;

// The coded symbols in the order of their codes: by length, then by value.
struct SymbolOrder {
    int count;
    std::array<uint8_t, 256> symbol;
};

// The optimal code lengths of at most `limit` (8 to huffman_max_length) bits for symbols with these frequencies, of
// which at least two are not zero.
CodeLengths choose_lengths(const std::array<uint32_t, 256>& frequency, int limit);

SymbolOrder order_symbols(const CodeLengths& lengths);

void write_lengths(const CodeLengths& lengths, std::vector<uint8_t>& out);

// Reads the output of write_lengths and advances `data` past it. Throws std::invalid_argument unless the lengths form a
// complete code.
CodeLengths read_lengths(const uint8_t*& data, const uint8_t* end);

}  // namespace fastload

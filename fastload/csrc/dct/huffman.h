// A bare Huffman coder of bytes, made to be decoded quickly: codes of at most 11 bits, four bit streams side by side,
// and a table that gives up to six symbols a look-up.
//
// Coded bytes: code lengths, the number of symbols in the first three streams (3 x uint32), the four streams, one after
// another in the symbols' order and of equal size in bytes, which makes them equally long to decode. A byte's highest
// bit is its first. Codes are canonical: in the order of their lengths, then of their symbols, they count upwards from
// zero. Code lengths: the highest symbol (1 byte), then a nibble for each symbol from 0 to it, low nibble first; after
// a zero another nibble tells how many zeros follow it. The lengths must form a complete code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastload {

// Readable bytes that must follow the coded bytes.
constexpr size_t huffman_read_slack = 16;

// Appends the coded symbols; returns false, appending nothing, when that takes no fewer bytes than there are symbols.
bool huffman_encode(const uint8_t* symbols, size_t count, std::vector<uint8_t>& coded);

// Decodes exactly `count` symbols. Throws std::invalid_argument for damaged bytes; never reads beyond the slack nor
// writes beyond the symbols.
void huffman_decode(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count);
#if defined(__x86_64__)
void huffman_decode_bmi2(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count);
#endif

}  // namespace fastload

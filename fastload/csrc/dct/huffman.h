// A Huffman coder of bytes, designed for fast decoding: codes of at most 11 bits, four parallel bit streams, and a
// table that yields up to six symbols per look-up.
//
// Coded bytes: code lengths, the number of symbols in the first three streams (3 x uint32), then the four streams. They
// hold consecutive symbols and have the same size in bytes, so that they take equally long to decode. Bits are read
// from the highest in a byte. Codes are canonical: ordered by length, then by symbol, they count up from zero. Code
// lengths: the highest symbol (1 byte), then a nibble for each symbol from 0 to it, low nibble first; after a zero,
// another nibble is the number of further zeros. The lengths must form a complete code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastload {

// Readable bytes that must follow the coded bytes.
constexpr size_t huffman_read_slack = 16;

// Appends the coded symbols. Returns false, without appending, if that takes no fewer bytes than the symbols.
bool huffman_encode(const uint8_t* symbols, size_t count, std::vector<uint8_t>& coded);

// Decodes the first `wanted` of `count` symbols. Throws std::invalid_argument if the bytes of these are damaged. Never
// reads beyond the slack or writes beyond the symbols.
void huffman_decode(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count, size_t wanted);
#if defined(__x86_64__)
void huffman_decode_avx2(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count, size_t wanted);
#endif

}  // namespace fastload

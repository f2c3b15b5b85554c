#include "jpeg_huffman.h"

#include <algorithm>
#include <cstring>

#include "turbojpeg.h"

namespace fastload {
namespace {

constexpr int ac_bits = JpegHuffmanTable::ac_bits, ac_size = 1 << ac_bits;

// T.81, F.2.2.1: EXTEND.
int extend(int bits, int length) { return bits >> (length - 1) ? bits : bits - (1 << length) + 1; }

using Table = JpegHuffmanTable;

uint32_t length_of(uint32_t entry) { return entry & 15; }

uint32_t coefficient(int length, int distance, int value) {
    return uint32_t(length) | (uint32_t(value) & 0xff) << 8 | uint32_t(distance) << 22 | uint32_t(distance) << 27;
}

// The entries of all bit patterns that begin with a code.
void fill_ac(uint32_t* entries, int count, int length, int symbol) {
    const int run = symbol >> 4, extra = symbol & 15;
    if (extra == 0) {
        const uint32_t entry = run == 15 ? coefficient(length, 16, 0)
                                         : length | Table::end_of_block | Table::nowhere << 24;
        std::fill_n(entries, count, entry);
    } else if (length + extra > ac_bits || extra > 7) {
        std::fill_n(entries, count, Table::single | uint32_t(length) | uint32_t(symbol) << 8);
    } else {
        const int each = count >> extra;
        for (int bits = 0; bits < 1 << extra; ++bits, entries += each)
            std::fill_n(entries, each, coefficient(length + extra, run + 1, extend(bits, extra)));
    }
}
// `first`, combined with the next code in the same bits if both fit.
uint32_t pair_of(uint32_t first, uint32_t second) {
    const uint32_t length = length_of(first) + length_of(second), value = first & 0xff00;
    if ((first & Table::special) || (second & Table::single) || length > ac_bits) return first;
    if (second & Table::end_of_block) return length | Table::end_of_block | value | Table::first_distance(first) << 24;
    const uint32_t distances = Table::first_distance(first) + Table::first_distance(second);
    const int second_value = Table::first_value(second);
    if (distances > 31 || second_value < -32 || second_value > 31) return first;
    const uint32_t second_bits = (uint32_t(second_value) & 0x3f) << 16;
    return length | value | second_bits | Table::first_distance(first) << 22 | distances << 27;
}

}  // namespace

void JpegHuffmanTable::define(Kind kind, const uint8_t* counts, const uint8_t* symbols, int symbol_count) {
    const bool same = kind == kind_ && symbol_count == symbol_count_ && std::equal(counts, counts + 16, counts_) &&
                      std::equal(symbols, symbols + symbol_count, symbols_);
    defined_ = same;
    if (same) return;
    symbol_count_ = -1;  // invalid until the table is complete
    std::copy_n(counts, 16, counts_);
    std::copy_n(symbols, symbol_count, symbols_);
    largest_ = symbol_count ? *std::max_element(symbols, symbols + symbol_count) : 0;
    uint32_t code = 0;  // left-aligned in 16 bits, so that codes of all lengths compare in order
    for (int length = 1, index = 0; length <= 16; ++length) {
        offset_[length] = index - int(code >> (16 - length));
        index += counts[length - 1];
        code += uint32_t(counts[length - 1]) << (16 - length);
        if (code >= 0x10000) throw JpegError("a Huffman table with more codes than fit");  // no code may be all ones
        end_[length] = code;
    }
    kind == dc ? look_up_dc() : look_up_ac();
    kind_ = kind;
    symbol_count_ = symbol_count;
    defined_ = true;
}

void JpegHuffmanTable::look_up_dc() {
    std::fill_n(lookup, 1 << dc_bits, 0);
    const uint8_t* symbol = symbols_;
    uint32_t* entries = lookup;
    for (int length = 1; length <= dc_bits; ++length)
        for (int i = 0; i < counts_[length - 1]; ++i, ++symbol, entries += 1 << (dc_bits - length))
            std::fill_n(entries, 1 << (dc_bits - length), dc_entry({*symbol, length}));
}

void JpegHuffmanTable::look_up_ac() {
    uint32_t entries[ac_size];
    std::fill_n(entries, ac_size, single);
    const uint8_t* symbol = symbols_;
    uint32_t* next = entries;
    for (int length = 1; length <= ac_bits; ++length)
        for (int i = 0; i < counts_[length - 1]; ++i, ++symbol, next += 1 << (ac_bits - length))
            fill_ac(next, 1 << (ac_bits - length), length, *symbol);
    for (uint32_t i = 0; i < ac_size; ++i)
        lookup[i] = pair_of(entries[i], entries[(i << length_of(entries[i])) % ac_size]);
}

}  // namespace fastload

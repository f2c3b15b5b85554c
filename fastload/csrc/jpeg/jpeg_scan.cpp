#include "jpeg_scan.h"

#include <algorithm>
#include <cstring>

#include "turbojpeg.h"

namespace fastload {
namespace {

using Cursor = BitReader::Cursor;

// A block reads at most 64 codes of 16 bits with 15 more bits each before the reader's position is checked.
constexpr size_t block_bytes = 64 * 31 / 8, slack = block_bytes + 3 * sizeof(uint64_t);

[[noreturn]] void raise(ScanFault fault) {
    switch (fault) {
        case ScanFault::unknown_code:
            throw JpegError("a code that is not in its Huffman table");
        case ScanFault::too_many_coefficients:
            throw JpegError("more than 64 coefficients in a block");
        case ScanFault::dc_overflow:
            throw JpegError("a DC coefficient of more than 16 bits");
        default:
            throw JpegError("the picture's data ends too early");
    }
}

#define ALWAYS_INLINE __attribute__((always_inline)) inline

// The signed value of `length` (0 to 15) extra bits at the top of the window (T.81, F.2.2.1: EXTEND).
ALWAYS_INLINE int extend(uint64_t window, unsigned length) {
    const int bits = int(window >> 1 >> (63 - length)), all = (1 << length) - 1;
    return bits - (all & (int(window >> 63) - 1));
}

ALWAYS_INLINE ScanFault decode_dc(Cursor& cursor, const JpegHuffmanTable& table, int& last_dc) {
    uint32_t entry = table.lookup[cursor.window >> (64 - JpegHuffmanTable::dc_bits)];
    if (__builtin_expect(entry == 0, 0)) {
        const JpegHuffmanTable::Code code = table.search(cursor.window);
        if (code.length == 0) return ScanFault::unknown_code;
        entry = JpegHuffmanTable::dc_entry(code);
    }
    last_dc += extend(cursor.window << (entry >> 8 & 0xff), entry >> 16);
    cursor.skip(entry & 0xff);
    return last_dc == int16_t(last_dc) ? ScanFault::none : ScanFault::dc_overflow;
}

// The coefficient of a code and the bits after it. Changes `place` from that of the previous coefficient to its own.
ALWAYS_INLINE ScanFault decode_coefficient(Cursor& cursor, JpegHuffmanTable::Code code, const uint8_t*& place,
                                       const uint8_t* end, int16_t* block) {
    const unsigned run = unsigned(code.symbol) >> 4, extra = unsigned(code.symbol) & 15;
    place += run + 1;
    if (__builtin_expect(place >= end, 0)) return ScanFault::too_many_coefficients;
    block[*place] = int16_t(extend(cursor.window << code.length, extra));
    cursor.skip(unsigned(code.length) + extra);
    return ScanFault::none;
}

// Decodes a code for which the look-up table does not suffice: longer codes, and those around a block's last
// coefficient. `place` becomes `end` at the end of the block.
__attribute__((noinline)) ScanFault decode_single(Cursor& cursor, const JpegHuffmanTable& table, const uint8_t*& place,
                                              const uint8_t* end, int16_t* block) {
    const JpegHuffmanTable::Code code = table.search(cursor.window);
    if (code.length == 0) return ScanFault::unknown_code;
    if ((code.symbol & 15) || code.symbol == 0xf0) return decode_coefficient(cursor, code, place, end, block);
    cursor.skip(unsigned(code.length));
    place = end;
    return ScanFault::none;
}

// `order` gives a coefficient's position in the block by its index in zigzag order; beyond 63 that of DC, which is
// written last.
ALWAYS_INLINE ScanFault decode_ac(Cursor& cursor, const JpegHuffmanTable& table, const uint8_t* order, int16_t* block) {
    using Table = JpegHuffmanTable;
    constexpr unsigned lookups = 56 / Table::ac_bits;
    const uint8_t* const end = order + 64;
    for (const uint8_t* place = order;;) {
        uint32_t entry = 0;
        cursor.refill();
#pragma GCC unroll 5
        for (unsigned i = 0; i < lookups; ++i) {
            entry = table.lookup[cursor.window >> (64 - Table::ac_bits)];
            if (__builtin_expect((entry & Table::special) != 0, 0)) goto special;
            const uint8_t* const second = place + Table::both_distances(entry);
            if (__builtin_expect(second >= end - 1, 0)) goto single;
            cursor.window <<= entry & 63;
            cursor.left -= entry;  // only the lowest 6 bits count
            block[*second] = Table::second_value(entry);
            block[place[Table::first_distance(entry)]] = Table::first_value(entry);
            place = second;
        }
        continue;
    special:
        if (entry & Table::end_of_block) {
            const uint8_t* const last = place + Table::last_distance(entry);
            if (__builtin_expect(size_t(last - (end - 1)) < 16, 0)) goto single;
            block[*last] = Table::first_value(entry);
            cursor.skip(entry & 15);
            return ScanFault::none;
        }
        cursor.refill();
        if (__builtin_expect((entry & 15) != 0, 1)) {
            const ScanFault fault = decode_coefficient(cursor, Table::single_code(entry), place, end, block);
            if (__builtin_expect(fault != ScanFault::none, 0)) return fault;
            if (__builtin_expect(place == end - 1, 0)) return ScanFault::none;
            continue;
        }
    single:
        Cursor copy = cursor;  // the cursor's address is not taken, so it stays in registers
        copy.refill();
        const uint8_t* next = place;
        const ScanFault fault = decode_single(copy, table, next, end, block);
        if (__builtin_expect(fault != ScanFault::none, 0)) return fault;
        cursor = copy;
        place = next;
        if (place >= end - 1) return ScanFault::none;
    }
}

ALWAYS_INLINE ScanFault decode_blocks(BitReader& reader, const McuBlock* blocks, size_t count, int first, int end,
                                  const uint8_t* order) {
    Cursor cursor = reader.cursor;
    const uint8_t* const last = reader.last();
    for (int x = first; x < end; ++x)
        for (const McuBlock* part = blocks; part != blocks + count; ++part) {
            int16_t* const block = part->first + part->step * x;
            cursor.refill();
            ScanFault fault = decode_dc(cursor, *part->dc, *part->last_dc);
            if (fault != ScanFault::none) return fault;
            fault = decode_ac(cursor, *part->ac, order, block);
            if (fault != ScanFault::none) return fault;
            block[0] = int16_t(*part->last_dc);
            if (__builtin_expect(cursor.next > last, 0)) return ScanFault::too_early;
        }
    reader.cursor = cursor;
    return ScanFault::none;
}

}  // namespace

ScanFault decode_mcus(BitReader& reader, const McuBlock* blocks, size_t count, int first, int end,
                      const uint8_t* order) {
    return decode_blocks(reader, blocks, count, first, end, order);
}

#if defined(__x86_64__)
// With shifts by any register, which do not change the flags.
__attribute__((target("bmi,bmi2"))) ScanFault decode_mcus_bmi2(BitReader& reader, const McuBlock* blocks, size_t count,
                                                               int first, int end, const uint8_t* order) {
    return decode_blocks(reader, blocks, count, first, end, order);
}
#endif

size_t BitReader::open(const uint8_t* data, size_t size, size_t position) {
    uint8_t* const base = memory_.ensure(size - std::min(position, size) + slack);
    uint8_t* out = base;
    for (;;) {
        const void* found = position < size ? std::memchr(data + position, 0xff, size - position) : nullptr;
        if (!found) throw JpegError("the file ends within the picture");
        const size_t escape = size_t(static_cast<const uint8_t*>(found) - data);
        if (escape + 1 >= size) throw JpegError("the file ends within the picture");
        out = std::copy(data + position, data + escape, out);
        position = escape;
        if (data[escape + 1] != 0) break;
        *out++ = 0xff;
        position += 2;
    }
    begin_ = base;
    end_ = out;
    std::fill_n(out, slack, uint8_t{0});
    cursor = {0, base, 0};
    return position;
}

void BitReader::close() const {
    const ptrdiff_t left = (end_ - cursor.next) * 8 + ptrdiff_t(cursor.left & 63);
    if (left < 0) throw JpegError("the picture's data ends too early");
    if (left >= 8) throw JpegError("extra bytes within the picture's data");
}

size_t ScanDecoder::run(const Scan& scan, const uint8_t* data, size_t size, size_t position, BlockSink& sink) {
    const bool interleaved = scan.components.size() > 1;
    const JpegComponent& only = *scan.components[0].component;
    const int width = interleaved ? scan.mcus_w : only.blocks_w, height = interleaved ? scan.mcus_h : only.blocks_h;
    data_ = data;
    size_ = size;
    position_ = reader_.open(data, size, position);
    std::fill(std::begin(last_dc_), std::end(last_dc_), 0);
    until_restart_ = scan.restart_interval;
    restarts_ = 0;
    std::copy_n(sink.order(), 64, order_);
    lay_out(scan);
    int needed = 0;
    for (const ScanComponent& part : scan.components) {
        const int rows = std::min(sink.rows(part.number), part.component->blocks_h);
        needed = std::max(needed, (rows + part.v - 1) / part.v);
    }
    for (int y = 0; y < needed; ++y)
        for (int x = 0; x < width; x += group_mcus) {
            const int mcus = std::min(group_mcus, width - x);
            decode_group(mcus, scan.restart_interval);
            give(scan, x, y, mcus, sink);
        }
    if (needed == height) reader_.close();
    while (needed < height && at_restart()) position_ = reader_.open(data, size, position_ + 2);
    return position_;
}

// The blocks of a component in a group form rows of group_mcus * h blocks, one below the other.
void ScanDecoder::lay_out(const Scan& scan) {
    blocks_.clear();
    int16_t* place = coefficients_;
    for (size_t c = 0; c < scan.components.size(); ++c) {
        const ScanComponent& part = scan.components[c];
        for (int v = 0; v < part.v; ++v, place += group_mcus * part.h * 64)
            for (int h = 0; h < part.h; ++h)
                blocks_.push_back({part.dc, part.ac, &last_dc_[c], place + h * 64, part.h * 64});
    }
}

void ScanDecoder::decode_group(int mcus, int restart_interval) {
    std::fill_n(coefficients_, blocks_.size() * group_mcus * 64, int16_t{0});
    for (int first = 0, end; first < mcus; first = end) {
        end = mcus;
        if (restart_interval) {
            if (until_restart_ == 0) restart(restart_interval);
            end = std::min(mcus, first + until_restart_);
            until_restart_ -= end - first;
        }
        const ScanFault fault = kernels_.decode_mcus(reader_, blocks_.data(), blocks_.size(), first, end, order_);
        if (fault != ScanFault::none) raise(fault);
    }
}

void ScanDecoder::restart(int interval) {
    reader_.close();
    if (!at_restart() || data_[position_ + 1] != 0xd0 + restarts_++ % 8)
        throw JpegError("a restart marker is missing");
    position_ = reader_.open(data_, size_, position_ + 2);
    std::fill(std::begin(last_dc_), std::end(last_dc_), 0);
    until_restart_ = interval;
}

bool ScanDecoder::at_restart() {
    while (position_ + 1 < size_ && data_[position_ + 1] == 0xff) ++position_;
    return position_ + 1 < size_ && data_[position_ + 1] >= 0xd0 && data_[position_ + 1] <= 0xd7;
}

// Blocks beyond the image complete an MCU and are dropped.
void ScanDecoder::give(const Scan& scan, int x, int y, int mcus, BlockSink& sink) const {
    const int16_t* row = coefficients_;
    for (const ScanComponent& part : scan.components)
        for (int v = 0; v < part.v; ++v, row += group_mcus * part.h * 64) {
            const int left = x * part.h, count = std::min(mcus * part.h, part.component->blocks_w - left);
            const int top = y * part.v + v;
            if (count > 0 && top < part.component->blocks_h) sink.put(part.number, top, left, count, row);
        }
}

}  // namespace fastload

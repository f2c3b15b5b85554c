#include "jpeg_scan.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "turbojpeg.h"

namespace fastload {
namespace {

// A block reads at most 64 codes of 16 bits with 15 more each before the reader's position is checked.
constexpr size_t block_bytes = 64 * 31 / 8, window_bytes = 8, slack = block_bytes + window_bytes + 8;

// The bits of one restart interval, with the bytes stuffed after 0xff taken out.
class BitReader {
public:
    // Takes the segment at `position`; returns the position of the marker after it.
    size_t open(const uint8_t* data, size_t size, size_t position) {
        bytes_.clear();
        for (;;) {
            const void* found = position < size ? std::memchr(data + position, 0xff, size - position) : nullptr;
            if (!found) throw JpegError("the file ends within the picture");
            const size_t escape = size_t(static_cast<const uint8_t*>(found) - data);
            bytes_.insert(bytes_.end(), data + position, data + escape);
            if (escape + 1 >= size) throw JpegError("the file ends within the picture");
            if (data[escape + 1] != 0) {
                finish();
                return escape;
            }
            bytes_.push_back(0xff);
            position = escape + 2;
        }
    }

    // Where decoding stands: a copy is kept in registers through a block.
    struct Cursor {
        const uint8_t* bytes;
        size_t bit;

        // At least 57 bits, the next one on top.
        uint64_t window() const {
            uint64_t value = 0;
            std::memcpy(&value, bytes + (bit >> 3), sizeof value);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            value = __builtin_bswap64(value);
#endif
            return value << (bit & 7);
        }
    };

    Cursor cursor() const { return {bytes_.data(), bit_}; }

    void advance(const Cursor& cursor) {
        bit_ = cursor.bit;
        check();
    }

    void check() const {
        if (bit_ > end_) throw JpegError("the picture's data ends too early");
    }

    void close() const {
        check();
        if (end_ - bit_ >= 8) throw JpegError("extra bytes within the picture's data");
    }

private:
    void finish() {
        bit_ = 0;
        end_ = bytes_.size() * 8;
        bytes_.resize(bytes_.size() + slack);
    }

    std::vector<uint8_t> bytes_;
    size_t bit_ = 0, end_ = 0;
};

// The signed value of `length` (1 to 15) extra bits on top of the window (T.81, F.2.2.1: EXTEND).
int extend(uint64_t window, int length) {
    const int bits = int(window >> (64 - length));
    return bits >> (length - 1) ? bits : bits - (1 << length) + 1;
}

JpegHuffmanTable::Code next_code(BitReader::Cursor& cursor, const JpegHuffmanTable& table, uint64_t window) {
    const JpegHuffmanTable::Code code = table.decode(window);
    if (code.length == 0) throw JpegError("a code that is not in its Huffman table");
    cursor.bit += size_t(code.length);
    return code;
}

int read_dc_difference(BitReader::Cursor& cursor, const JpegHuffmanTable& table) {
    const uint64_t window = cursor.window();
    const JpegHuffmanTable::Code code = next_code(cursor, table, window);
    if (code.symbol > 15) throw JpegError("a DC difference of more than 15 bits");
    if (code.symbol == 0) return 0;
    cursor.bit += size_t(code.symbol);
    return extend(window << code.length, code.symbol);
}

void decode_block(BitReader& reader, const ScanComponent& part, int& last_dc, int16_t* block) {
    BitReader::Cursor cursor = reader.cursor();
    last_dc += read_dc_difference(cursor, *part.dc);
    if (last_dc != int16_t(last_dc)) throw JpegError("a DC coefficient of more than 16 bits");
    block[0] = int16_t(last_dc);
    const JpegHuffmanTable& ac = *part.ac;
    for (int k = 1; k < 64; ++k) {
        const uint64_t window = cursor.window();
        const JpegHuffmanTable::Code code = next_code(cursor, ac, window);
        const int length = code.symbol & 15, run = code.symbol >> 4;
        if (length == 0 && run != 15) break;
        k += run;
        if (k > 63) throw JpegError("more than 64 coefficients in a block");
        if (length == 0) continue;
        block[zigzag_to_natural[k]] = int16_t(extend(window << code.length, length));
        cursor.bit += size_t(length);
    }
    reader.advance(cursor);
}

// Walks through a scan's blocks in coded order.
class ScanDecoder {
public:
    ScanDecoder(const Scan& scan, const uint8_t* data, size_t size) : scan_(scan), data_(data), size_(size) {}

    size_t run(size_t position) {
        const bool interleaved = scan_.components.size() > 1;
        const JpegComponent& first = *scan_.components[0].component;
        const int width = interleaved ? scan_.mcus_w : first.blocks_w;
        const int height = interleaved ? scan_.mcus_h : first.blocks_h;
        position_ = reader_.open(data_, size_, position);
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x) {
                restart_if_due();
                if (interleaved)
                    decode_mcu(x, y);
                else
                    decode(0, x, y);
            }
        reader_.close();
        return position_;
    }

private:
    void restart_if_due() {
        if (scan_.restart_interval && mcu_ && mcu_ % scan_.restart_interval == 0) {
            reader_.close();
            while (position_ + 1 < size_ && data_[position_ + 1] == 0xff) ++position_;  // fill bytes
            if (position_ + 1 >= size_ || data_[position_ + 1] != 0xd0 + restarts_++ % 8)
                throw JpegError("a restart marker is missing");
            position_ = reader_.open(data_, size_, position_ + 2);
            std::fill(std::begin(last_dc_), std::end(last_dc_), 0);
        }
        ++mcu_;
    }

    void decode_mcu(int x, int y) {
        for (size_t c = 0; c < scan_.components.size(); ++c) {
            const JpegComponent& component = *scan_.components[c].component;
            for (int v = 0; v < component.v; ++v)
                for (int h = 0; h < component.h; ++h) decode(c, x * component.h + h, y * component.v + v);
        }
    }

    void decode(size_t c, int x, int y) {
        JpegComponent& component = *scan_.components[c].component;
        int16_t padding[64];  // blocks beyond the image complete an MCU and are not kept
        const bool inside = x < component.blocks_w && y < component.blocks_h;
        int16_t* const block =
            inside ? &component.coefficients[(size_t(y) * component.blocks_w + x) * 64] : padding;
        decode_block(reader_, scan_.components[c], last_dc_[c], block);
    }

    const Scan& scan_;
    const uint8_t* data_;
    size_t size_, position_ = 0;
    BitReader reader_;
    int last_dc_[4] = {};
    int64_t mcu_ = 0;
    int restarts_ = 0;
};

}  // namespace

void JpegHuffmanTable::define(const uint8_t* counts, const uint8_t* symbols, int symbol_count) {
    std::copy_n(symbols, symbol_count, symbols_);
    std::fill(std::begin(fast_), std::end(fast_), uint16_t{0});
    uint32_t code = 0;  // left-aligned in 16 bits, so that codes of all lengths are in one order
    for (int length = 1, index = 0; length <= 16; ++length) {
        const uint32_t step = 1u << (16 - length);
        offset_[length] = index - int(code >> (16 - length));
        for (int i = 0; i < counts[length - 1]; ++i, ++index, code += step) {
            if (code + step > 0x10000) throw JpegError("a Huffman table with more codes than fit");
            if (length <= fast_bits)
                std::fill_n(fast_ + (code >> (16 - fast_bits)), step >> (16 - fast_bits),
                            uint16_t(length << 8 | symbols[index]));
        }
        end_[length] = code;
    }
    defined_ = true;
}

JpegHuffmanTable::Code JpegHuffmanTable::decode_long(uint64_t window) const {
    const uint32_t bits = uint32_t(window >> 48);
    for (int length = fast_bits + 1; length <= 16; ++length)
        if (bits < end_[length]) return {symbols_[offset_[length] + int(bits >> (16 - length))], length};
    return {0, 0};
}

size_t decode_scan(const Scan& scan, const uint8_t* data, size_t size, size_t position) {
    return ScanDecoder(scan, data, size).run(position);
}

}  // namespace fastload

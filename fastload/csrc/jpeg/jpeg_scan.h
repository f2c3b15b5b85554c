// The entropy-coded part of a JPEG: the coefficients of one scan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg_huffman.h"
#include "jpeg_parse.h"
#include "kernels.h"

namespace fastload {

struct ScanComponent {
    size_t number;  // among the image's components
    const JpegComponent* component;
    int h, v;  // blocks in an MCU, across and down: 1 in a scan of one component
    const JpegHuffmanTable* dc;
    const JpegHuffmanTable* ac;
};

struct Scan {
    std::vector<ScanComponent> components;
    int mcus_w, mcus_h;    // of an interleaved scan; a scan of one component has its own blocks
    int restart_interval;  // in MCUs; 0: none
};

// The bits of a restart interval, without the bytes stuffed after 0xff, in reused memory.
class BitReader {
public:
    // Loads the interval at `position`; returns the position of the marker after it. Throws JpegError.
    size_t open(const uint8_t* data, size_t size, size_t position);

    // Throws JpegError if more bits were read than there are, or if whole bytes were not read.
    void close() const;

    // The position of decoding; a copy is kept in registers.
    struct Cursor {
        uint64_t window;  // the next bits, from the highest down
        const uint8_t* next;
        unsigned left;  // valid bits of the window, in the lowest 6 bits; ignore those above

        // Fills it to at least 56 valid bits.
        void refill() {
            uint64_t bytes;
            __builtin_memcpy(&bytes, next, sizeof bytes);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
            bytes = __builtin_bswap64(bytes);
#endif
            window |= bytes >> (left & 63);
            next += (63 - (left & 63)) >> 3;
            left = (left & 63) | 56;
        }

        void skip(unsigned bits) {
            window <<= bits & 63;
            left -= bits;
        }
    };

    Cursor cursor{};
    const uint8_t* last() const { return end_ + sizeof(uint64_t); }  // `cursor.next` never reaches it within the bits

private:
    Buffer memory_;
    const uint8_t* begin_ = nullptr;
    const uint8_t* end_ = nullptr;
};

// A block of an MCU, and the position of its coefficients.
struct McuBlock {
    const JpegHuffmanTable* dc;
    const JpegHuffmanTable* ac;
    int* last_dc;
    int16_t* first;   // in the first MCU of a group
    ptrdiff_t step;  // from there to the next MCU's
};

// What is wrong with the bits of a scan.
enum class ScanFault : int { none, unknown_code, too_many_coefficients, dc_overflow, too_early };

// Decodes MCUs `first` to `end`, of `count` blocks each, whose coefficients go where `order` says. See Kernels.
ScanFault decode_mcus(BitReader& reader, const McuBlock* blocks, size_t count, int first, int end,
                      const uint8_t* order);
#if defined(__x86_64__)
ScanFault decode_mcus_bmi2(BitReader& reader, const McuBlock* blocks, size_t count, int first, int end,
                           const uint8_t* order);
#endif

// Decodes scans; one per thread.
class ScanDecoder {
public:
    explicit ScanDecoder(const Kernels& kernels) : kernels_(kernels) {}

    // Decodes the entropy-coded segments at `position` and gives `sink` their blocks, with coefficients in its order.
    // Stops after the rows that `sink` needs. Returns the position of the marker that ends them. Throws JpegError.
    size_t run(const Scan& scan, const uint8_t* data, size_t size, size_t position, BlockSink& sink);

private:
    // MCUs are decoded in groups, so that their coefficients are still in the L1 cache when `sink` gets them.
    static constexpr int group_mcus = 16, max_blocks = 10;

    void lay_out(const Scan& scan);
    void decode_group(int mcus, int restart_interval);
    void restart(int interval);
    bool at_restart();  // after fill bytes, which it skips
    void give(const Scan& scan, int x, int y, int mcus, BlockSink& sink) const;

    const Kernels& kernels_;
    BitReader reader_;
    const uint8_t* data_ = nullptr;
    size_t size_ = 0, position_ = 0;
    std::vector<McuBlock> blocks_;
    uint8_t order_[JpegHuffmanTable::nowhere + 64] = {};  // the sink's, then the position of DC, which is written last
    int last_dc_[4] = {};
    int until_restart_ = 0, restarts_ = 0;
    alignas(64) int16_t coefficients_[group_mcus * max_blocks * 64] = {};
};

}  // namespace fastload

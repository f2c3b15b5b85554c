#include "huffman.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "huffman_code.h"

#define ALWAYS_INLINE __attribute__((always_inline)) inline

namespace fastload {
namespace {

constexpr int streams = 4, max_symbols = 6;
constexpr int lookups = 5;  // in the 56 bits of a refilled window, each of up to 11 bits
constexpr size_t counts_bytes = (streams - 1) * sizeof(uint32_t);

uint64_t big_endian(uint64_t value) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

uint64_t load64(const uint8_t* p) {
    uint64_t value;
    std::memcpy(&value, p, sizeof value);
    return big_endian(value);
}

void store64(uint64_t value, uint8_t* p) {
    value = big_endian(value);
    std::memcpy(p, &value, sizeof value);
}

struct Code {
    uint32_t bits;
    int length;
};

// Longer codes pay off only if many symbols share the cost of building their table.
int length_limit(size_t count) { return count < 8192 ? 9 : count < 32768 ? 10 : huffman_max_length; }

std::array<Code, 256> assign_codes(const CodeLengths& lengths) {
    const SymbolOrder order = order_symbols(lengths);
    std::array<Code, 256> codes{};
    uint32_t next = 0;  // left-aligned in huffman_max_length bits
    for (int i = 0; i < order.count; ++i) {
        const uint8_t symbol = order.symbol[size_t(i)];
        const int unused = huffman_max_length - lengths[symbol];
        codes[symbol] = {next >> unused, lengths[symbol]};
        next += 1u << unused;
    }
    return codes;
}

// Writes as many symbols from `position` on as fit into `size` bytes, and returns the position of the next one.
// Overwrites up to 7 bytes past the end.
size_t encode_stream(const uint8_t* symbols, size_t position, size_t count, const std::array<Code, 256>& codes,
                     uint8_t* out, size_t size) {
    uint64_t bits = 0;  // the next one on top
    int filled = 0;
    for (size_t left = size * 8; position < count; ++position) {
        const Code code = codes[symbols[position]];
        if (size_t(code.length) > left) break;
        left -= size_t(code.length);
        filled += code.length;
        bits |= uint64_t{code.bits} << (64 - filled);
        if (filled < 48) continue;
        store64(bits, out);
        out += filled >> 3;
        bits <<= filled & ~7;
        filled &= 7;
    }
    store64(bits, out);
    return position;
}

// The size of each stream. A code that does not fit at the end of a stream leaves up to 10 bits unused.
size_t stream_size(const std::array<uint32_t, 256>& frequency, const CodeLengths& lengths) {
    size_t bits = (streams - 1) * (huffman_max_length - 1);
    for (size_t symbol = 0; symbol < 256; ++symbol) bits += size_t{frequency[symbol]} * lengths[symbol];
    return (bits + 8 * streams - 1) / (8 * streams);
}

// Decodes the next bits. An entry holds, from its lowest byte: the number of bits used, its symbols, and in the highest
// byte the number of symbols.
class Table {
public:
    ALWAYS_INLINE explicit Table(const CodeLengths& lengths) : log2_size_(*std::max_element(lengths.begin(), lengths.end())) {
        const SymbolOrder order = order_symbols(lengths);
        entries_[1] = 0;
        for (int bits = 1; bits <= log2_size_; ++bits) fill(bits, order, lengths);
    }

    const uint64_t* entries() const { return level(log2_size_); }
    int log2_size() const { return log2_size_; }

private:
    // Level n is for n known bits: a first symbol, followed by the entry of level n - (length of its code).
    const uint64_t* level(int bits) const { return entries_ + (size_t{1} << bits); }

    ALWAYS_INLINE void fill(int bits, const SymbolOrder& order, const CodeLengths& lengths) {
        uint64_t* out = entries_ + (size_t{1} << bits);
        uint64_t* const end = out + (size_t{1} << bits);
        for (int i = 0; i < order.count; ++i) {
            const uint8_t symbol = order.symbol[size_t(i)];
            const int length = lengths[symbol];
            if (length > bits) break;
            out = prepend(symbol, length, level(bits - length), size_t{1} << (bits - length), out);
        }
        std::fill(out, end, uint64_t{0});  // no whole code
    }

    // Puts a symbol before each entry of `followers`; the symbol alone if the entry is full.
    static ALWAYS_INLINE uint64_t* prepend(uint8_t symbol, int length, const uint64_t* __restrict followers,
                                           size_t count, uint64_t* __restrict out) {
        const uint64_t alone = uint64_t{1} << 56 | uint64_t{symbol} << 8 | uint64_t(length);
        constexpr uint64_t ends = 0xff000000000000ff, symbols = 0x0000ffffffffff00;
        for (size_t i = 0; i < count; ++i) {
            const uint64_t follower = followers[i] >> 56 < max_symbols ? followers[i] : 0;
            out[i] = alone + (follower & ends) + ((follower & symbols) << 8);
        }
        return out + count;
    }

    int log2_size_;
    uint64_t entries_[2 << huffman_max_length];  // level n at 2^n
};

struct BitStream {
    const uint8_t* next;  // the window's first byte
    const uint8_t* end;
    uint64_t window;  // the bits left, above a sentinel one; the zeros below it tell how many are used up
    uint8_t* out;
    uint8_t* out_end;

    void open(const uint8_t* begin) {
        next = begin;
        window = load64(begin) | 1;
    }

    ALWAYS_INLINE void refill() {
        const int used = __builtin_ctzll(window);
        next += used >> 3;
        window = (load64(next) | 1) << (used & 7);
    }
};

// How many rounds of `lookups` look-ups stay within the bytes and the symbols of a stream. A look-up writes eight bytes
// and advances by at most max_symbols. A round advances by at most (7 + 5 * 11) / 8 = 7 bytes and, if next <= end after
// it, reads at most 8 bytes past the end.
ALWAYS_INLINE size_t safe_rounds(const BitStream& stream) {
    constexpr ptrdiff_t out_round = lookups * max_symbols, in_round = 7;
    const ptrdiff_t rounds =
        std::min((stream.out_end - stream.out - 8) / out_round, (stream.end - stream.next) / in_round);
    return size_t(std::max(rounds, ptrdiff_t{0}));
}

ALWAYS_INLINE void look_up(const uint64_t* entries, int unused, BitStream& stream) {
    const uint64_t entry = entries[stream.window >> unused];
    const uint64_t symbols = entry >> 8;
    std::memcpy(stream.out, &symbols, sizeof symbols);
    stream.out += entry >> 56;
    stream.window <<= entry & 63;
}

// Decodes `count` streams side by side, since look-ups in one stream wait for each other, until one is nearly decoded.
template <int count>
ALWAYS_INLINE void rounds_of(const uint64_t* entries, int unused, BitStream* stream) {
    BitStream local[count];
    std::copy_n(stream, count, local);
    for (;;) {
        size_t rounds = safe_rounds(local[0]);
        for (int s = 1; s < count; ++s) rounds = std::min(rounds, safe_rounds(local[s]));
        if (rounds == 0) break;
        do {
            for (int i = 0; i < lookups; ++i)
                for (int s = 0; s < count; ++s) look_up(entries, unused, local[s]);
            for (int s = 0; s < count; ++s) local[s].refill();
        } while (--rounds);
    }
    std::copy_n(local, count, stream);
}

// Decodes all but the last symbols of each stream, and changes the order of the streams.
ALWAYS_INLINE void rounds_source(const uint64_t* entries, int unused, BitStream* stream) {
    for (int left = streams;;) {
        left = int(std::partition(stream, stream + left, safe_rounds) - stream);
        if (left == 4)
            rounds_of<4>(entries, unused, stream);
        else if (left == 3)
            rounds_of<3>(entries, unused, stream);
        else if (left == 2)
            rounds_of<2>(entries, unused, stream);
        else if (left == 1)
            rounds_of<1>(entries, unused, stream);
        else
            return;
    }
}

// Not inlined, so that the table's address is in a register.
__attribute__((noinline)) void decode_rounds(const uint64_t* entries, int unused, BitStream* stream) {
    rounds_source(entries, unused, stream);
}

#if defined(__x86_64__)
__attribute__((noinline, target("bmi,bmi2"))) void decode_rounds_bmi2(const uint64_t* entries, int unused,
                                                                      BitStream* stream) {
    rounds_source(entries, unused, stream);
}
#endif

// Decodes the last symbols of a stream.
ALWAYS_INLINE void decode_rest(const uint64_t* entries, int unused, const CodeLengths& lengths, BitStream& stream) {
    for (; stream.out_end - stream.out >= 8 && stream.next <= stream.end; stream.refill())
        look_up(entries, unused, stream);
    for (; stream.out != stream.out_end && stream.next <= stream.end; stream.refill()) {
        const uint8_t symbol = uint8_t(entries[stream.window >> unused] >> 8);
        *stream.out++ = symbol;
        stream.window <<= lengths[symbol];
    }
    if ((stream.next - stream.end) * 8 + __builtin_ctzll(stream.window) > 0)
        throw std::invalid_argument("a coded stream is cut short");
}

void open_streams(const uint8_t* data, const uint8_t* end, uint8_t* symbols, size_t count, size_t wanted,
                  BitStream* stream) {
    if (size_t(end - data) < counts_bytes || size_t(end - data - counts_bytes) % streams != 0)
        throw std::invalid_argument("coded streams of impossible size");
    const size_t size = size_t(end - data - counts_bytes) / streams;
    const uint8_t* begin = data + counts_bytes;
    for (int s = 0; s < streams; ++s, data += sizeof(uint32_t), begin += size) {
        size_t here = count;
        if (s < streams - 1) here = data[0] | data[1] << 8 | data[2] << 16 | uint32_t{data[3]} << 24;
        if (here > count) throw std::invalid_argument("coded streams of more symbols than there are");
        count -= here;
        here = std::min(here, wanted);
        wanted -= here;
        stream[s].open(begin);
        stream[s].end = begin + size;
        stream[s].out = symbols;
        stream[s].out_end = symbols += here;
    }
}

ALWAYS_INLINE void decode(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count, size_t wanted,
                          void rounds(const uint64_t* entries, int unused, BitStream* stream)) {
    const uint8_t* const end = coded + size;
    const CodeLengths lengths = read_lengths(coded, end);
    BitStream stream[streams];
    open_streams(coded, end, symbols, count, wanted, stream);
    const Table table(lengths);
    const int unused = 64 - table.log2_size();
    rounds(table.entries(), unused, stream);
    for (BitStream& one : stream) decode_rest(table.entries(), unused, lengths, one);
}

}  // namespace

bool huffman_encode(const uint8_t* symbols, size_t count, std::vector<uint8_t>& coded) {
    std::array<uint32_t, 256> frequency{};
    for (size_t i = 0; i < count; ++i) ++frequency[symbols[i]];
    const CodeLengths lengths = choose_lengths(frequency, length_limit(count));
    const std::array<Code, 256> codes = assign_codes(lengths);
    const size_t start = coded.size(), size = stream_size(frequency, lengths);
    write_lengths(lengths, coded);
    const size_t counts = coded.size(), end = counts + counts_bytes + streams * size;
    coded.resize(end + sizeof(uint64_t));
    size_t position = 0;
    for (size_t s = 0; s < streams; ++s) {
        const size_t first = position;
        position = encode_stream(symbols, first, count, codes, &coded[counts + counts_bytes + s * size], size);
        for (size_t byte = 0; s < streams - 1 && byte < 4; ++byte)
            coded[counts + 4 * s + byte] = uint8_t((position - first) >> (8 * byte));
    }
    coded.resize(end - start < count ? end : start);
    return end - start < count;
}

void huffman_decode(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count, size_t wanted) {
    decode(coded, size, symbols, count, wanted, decode_rounds);
}

#if defined(__x86_64__)
__attribute__((target("avx2,bmi,bmi2"))) void huffman_decode_avx2(const uint8_t* coded, size_t size, uint8_t* symbols,
                                                                  size_t count, size_t wanted) {
    decode(coded, size, symbols, count, wanted, decode_rounds_bmi2);
}
#endif

}  // namespace fastload

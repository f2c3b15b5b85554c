#include "jpeg_write.h"

#include <algorithm>
#include <cstdlib>

#include "huffman_code.h"
#include "turbojpeg.h"

namespace fastload {
namespace {

using Bytes = std::vector<uint8_t>;

constexpr int max_category = 14;  // bits of a coefficient or DC difference; int16 coefficients have no more
constexpr int end_of_block = 0, sixteen_zeros = 0xf0;
// No coefficient has this symbol. It takes each table's last code, all ones, which a JPEG must not use.
constexpr uint8_t reserved_symbol = 0xff;
constexpr int code_limit = huffman_max_length;

struct Code {
    uint16_t bits;
    uint8_t length;
};

struct Table {
    std::array<uint32_t, 256> frequency{};
    std::array<Code, 256> code{};
    Bytes segment;  // of DHT, without class and number: a count for each length, then the symbols

    void build() {
        for (uint32_t& f : frequency) f *= 2;
        frequency[reserved_symbol] = 1;  // the rarest, and the highest of those with the longest codes: the last
        const CodeLengths lengths = choose_lengths(frequency, code_limit);
        const SymbolOrder order = order_symbols(lengths);
        segment.assign(16, 0);
        unsigned next = 0;
        for (int i = 0; i < order.count; ++i) {
            const uint8_t symbol = order.symbol[size_t(i)], length = lengths[symbol];
            code[symbol] = {uint16_t(next >> (16 - length)), length};
            next += 1u << (16 - length);
            if (symbol == reserved_symbol) continue;
            ++segment[length - 1u];
            segment.push_back(symbol);
        }
    }
};

struct Tables {
    Table dc[2], ac[2];  // for the first component, and for the others
};

// The first pass over the coefficients: counts symbols.
struct Counter {
    Tables& tables;
    void symbol(Table& table, int symbol, int, int) { ++table.frequency[size_t(symbol)]; }
};

// The second pass: writes them.
class Writer {
public:
    explicit Writer(Bytes& out) : out_(out) {}

    void symbol(const Table& table, int symbol, int value, int bits) {
        const Code code = table.code[size_t(symbol)];
        put(code.bits, code.length);
        put(unsigned(value < 0 ? value - 1 : value) & ((1u << bits) - 1), bits);
    }
    void finish() {
        if (count_ % 8) put((1u << (8 - count_ % 8)) - 1, 8 - count_ % 8);
    }

private:
    void put(unsigned bits, int count) {
        window_ = window_ << count | bits;
        for (count_ += count; count_ >= 8; count_ -= 8) {
            const uint8_t byte = uint8_t(window_ >> (count_ - 8));
            out_.push_back(byte);
            if (byte == 0xff) out_.push_back(0);
        }
    }

    Bytes& out_;
    uint64_t window_ = 0;
    int count_ = 0;
};

int category(int value) {
    const int bits = value ? 32 - __builtin_clz(unsigned(std::abs(value))) : 0;
    if (bits > max_category) throw JpegError("a coefficient beyond those that a JPEG holds");
    return bits;
}

template <class Pass>
void code_block(const int16_t* block, int difference, Table& dc, Table& ac, Pass& pass) {
    const int bits = category(difference);
    pass.symbol(dc, bits, difference, bits);
    int zeros = 0;
    for (int k = 1; k < 64; ++k) {
        const int value = block[zigzag_to_natural[k]];
        if (value == 0) {
            ++zeros;
            continue;
        }
        for (; zeros > 15; zeros -= 16) pass.symbol(ac, sixteen_zeros, 0, 0);
        const int size = category(value);
        pass.symbol(ac, zeros << 4 | size, value, size);
        zeros = 0;
    }
    if (zeros) pass.symbol(ac, end_of_block, 0, 0);
}

// Walks over all blocks in the order of an interleaved scan. A scan of several components consists of whole MCUs:
// blocks beyond a component's last repeat the previous DC coefficient and have no AC.
template <class Pass>
void code_scan(const JpegCoefficients& image, Tables& tables, Pass& pass) {
    static constexpr int16_t nothing[64] = {};
    const std::vector<JpegComponent>& components = image.components;
    const int h = components.size() == 1 ? 1 : components[0].h, v = components.size() == 1 ? 1 : components[0].v;
    const int mcus_w = (components[0].blocks_w + h - 1) / h, mcus_h = (components[0].blocks_h + v - 1) / v;
    int last[3] = {};
    for (int mcu = 0; mcu < mcus_w * mcus_h; ++mcu) {
        for (size_t c = 0; c < components.size(); ++c) {
            const JpegComponent& component = components[c];
            const int across = c ? 1 : h, down = c ? 1 : v;
            for (int i = 0; i < across * down; ++i) {
                const int x = mcu % mcus_w * across + i % across, y = mcu / mcus_w * down + i / across;
                const bool inside = x < component.blocks_w && y < component.blocks_h;
                const int16_t* const block =
                    inside ? component.coefficients.data() + (size_t(y) * component.blocks_w + x) * 64 : nothing;
                const int dc = inside ? block[0] : last[c];
                code_block(block, dc - last[c], tables.dc[c > 0], tables.ac[c > 0], pass);
                last[c] = dc;
            }
        }
    }
}

void put16(Bytes& out, size_t value) { out.insert(out.end(), {uint8_t(value >> 8), uint8_t(value)}); }

void write_segment(Bytes& out, uint8_t marker, const Bytes& body) {
    out.insert(out.end(), {0xff, marker});
    put16(out, body.size() + 2);
    out.insert(out.end(), body.begin(), body.end());
}

// The colors of the components: JFIF means Y, Cb, Cr or gray; Adobe's transform 0 means R, G, B.
void write_colors(Bytes& out, bool rgb) {
    if (rgb)
        write_segment(out, 0xee, {'A', 'd', 'o', 'b', 'e', 0, 100, 0, 0, 0, 0, 0});
    else
        write_segment(out, 0xe0, {'J', 'F', 'I', 'F', 0, 1, 1, 0, 0, 1, 0, 1, 0, 0});
}

// A quantization table for each component. Returns whether any step needs two bytes, which baseline JPEGs do not allow.
bool write_quantisation(Bytes& out, const JpegCoefficients& image) {
    bool any_wide = false;
    for (size_t c = 0; c < image.components.size(); ++c) {
        const uint16_t* quant = image.components[c].quant;
        const bool wide = std::any_of(quant, quant + 64, [](uint16_t q) { return q > 255; });
        Bytes body{uint8_t(wide << 4 | int(c))};
        for (uint8_t natural : zigzag_to_natural) {
            if (wide) body.push_back(uint8_t(quant[natural] >> 8));
            body.push_back(uint8_t(quant[natural]));
        }
        write_segment(out, 0xdb, body);
        any_wide |= wide;
    }
    return any_wide;
}

void write_frame(Bytes& out, const JpegCoefficients& image, bool extended) {
    Bytes body{8};
    put16(body, size_t(image.height));
    put16(body, size_t(image.width));
    body.push_back(uint8_t(image.components.size()));
    for (size_t c = 0; c < image.components.size(); ++c) {
        const JpegComponent& component = image.components[c];
        body.insert(body.end(), {uint8_t(c + 1), uint8_t(component.h << 4 | component.v), uint8_t(c)});
    }
    write_segment(out, extended ? 0xc1 : 0xc0, body);
}

void write_tables(Bytes& out, const Tables& tables, size_t sets) {
    for (size_t set = 0; set < sets; ++set) {
        for (const Table* table : {&tables.dc[set], &tables.ac[set]}) {
            Bytes body{uint8_t((table == &tables.ac[set]) << 4 | int(set))};
            body.insert(body.end(), table->segment.begin(), table->segment.end());
            write_segment(out, 0xc4, body);
        }
    }
}

void write_scan_header(Bytes& out, size_t components) {
    Bytes body{uint8_t(components)};
    for (size_t c = 0; c < components; ++c) body.insert(body.end(), {uint8_t(c + 1), uint8_t(c ? 0x11 : 0)});
    body.insert(body.end(), {0, 63, 0});
    write_segment(out, 0xda, body);
}

}  // namespace

std::vector<uint8_t> write_jpeg(const JpegCoefficients& image) {
    if (std::max(image.width, image.height) > max_side) throw JpegError("larger than any JPEG");
    const size_t sets = image.components.size() == 1 ? 1 : 2;
    Tables tables;
    Counter counter{tables};
    code_scan(image, tables, counter);
    for (size_t set = 0; set < sets; ++set) {
        tables.dc[set].build();
        tables.ac[set].build();
    }
    Bytes out{0xff, 0xd8};
    write_colors(out, image.rgb);
    write_frame(out, image, write_quantisation(out, image));
    write_tables(out, tables, sets);
    write_scan_header(out, image.components.size());
    Writer writer(out);
    code_scan(image, tables, writer);
    writer.finish();
    out.insert(out.end(), {0xff, 0xd9});
    return out;
}

}  // namespace fastload

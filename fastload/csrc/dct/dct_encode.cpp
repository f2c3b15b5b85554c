#include <algorithm>
#include <array>
#include <cstdlib>

#include "dct_blocks.h"
#include "dct_format.h"
#include "huffman.h"
#include "jpeg_parse.h"
#include "turbojpeg.h"

namespace fastload {
namespace {

using Bytes = std::vector<uint8_t>;

struct Streams {
    Bytes presence, dc, masks, values, rest;
};

void put32(Bytes& out, size_t value) {
    for (int shift = 0; shift < 32; shift += 8) out.push_back(uint8_t(value >> shift));
}

void pack_dc(const int16_t* block, int prediction, Streams& streams) {
    const int difference = block[0] - prediction;
    const int u = difference < 0 ? -2 * difference - 1 : 2 * difference;
    if (u < dc_escape) {
        streams.dc.push_back(uint8_t(u));
    } else {
        streams.dc.push_back(uint8_t(dc_escape + ((u - dc_escape) >> 8)));
        streams.rest.push_back(uint8_t(u - dc_escape));
    }
}

uint8_t pack_large_value(int value, Bytes& rest) {
    const int u = 2 * (std::abs(value) - 128) + (value < 0);
    rest.push_back(uint8_t(u < 128 ? u : (u & 127) | 128));
    if (u >= 128) rest.push_back(uint8_t(u >> 7));
    return 128;
}

class RangeCheck {
public:
    explicit RangeCheck(const uint16_t* quant) : quant_(quant) {}

    void add(int position, int value) { sum_[position & 7] += std::abs(value) * quant_[position]; }

    void finish() {
        const int64_t worst = std::max({sum_[0] + sum_[4], sum_[1] + sum_[5], sum_[3] + sum_[7], sum_[2], sum_[6]});
        if (worst > column_limit) throw JpegError("coefficients beyond those of any image of 8 bits");
        sum_.fill(0);
    }

private:
    const uint16_t* quant_;
    std::array<int64_t, 8> sum_{};
};

void pack_mask(uint64_t mask, Streams& streams) {
    unsigned presence = 0;
    for (int group = 0; group < 8; ++group, mask >>= 8) {
        if ((mask & 0xff) == 0) continue;
        presence |= 1u << group;
        streams.masks.push_back(uint8_t(mask));
    }
    streams.presence.push_back(uint8_t(presence));
}

void pack_ac(const int16_t* block, RangeCheck& range, Streams& streams) {
    uint64_t mask = 0;
    for (size_t p = 1; p < 64; ++p) mask |= uint64_t{block[packed_to_natural[p]] != 0} << p;
    pack_mask(mask, streams);
    range.add(0, block[0]);
    uint8_t values[64];
    size_t count = 0;
    for (; mask; mask &= mask - 1) {
        const int position = packed_to_natural[size_t(__builtin_ctzll(mask))], value = block[position];
        range.add(position, value);
        const bool large = value > 127 || value < -127;
        values[count++] = large ? pack_large_value(value, streams.rest) : uint8_t(value);
    }
    streams.values.insert(streams.values.end(), values, values + count);
    range.finish();
}

void pack_component(const JpegComponent& component, Streams& streams) {
    for (uint16_t q : component.quant)
        if (q == 0) throw JpegError("a quantisation step of zero");
    RangeCheck range(component.quant);
    const size_t row_size = size_t(component.blocks_w) * 64;
    const int16_t* row = component.coefficients.data();
    for (int y = 0; y < component.blocks_h; ++y, row += row_size) {
        for (int x = 0; x < component.blocks_w; ++x) {
            const int16_t* block = row + x * 64;
            pack_dc(block, x ? block[-64] : y ? *(block - row_size) : 0, streams);
        }
        for (int x = 0; x < component.blocks_w; ++x) pack_ac(row + x * 64, range, streams);
    }
}

// Replaces values by their magnitudes, and returns one sign bit for each.
Bytes split_signs(Bytes& values) {
    Bytes signs((values.size() + 7) / 8);
    for (size_t i = 0; i < values.size(); ++i) {
        const bool negative = values[i] > 128;
        signs[i / 8] = uint8_t(signs[i / 8] | negative << i % 8);
        values[i] = uint8_t(negative ? -values[i] : values[i]);
    }
    return signs;
}

void write_stream(const Bytes& stream, bool entropy, Bytes& out) {
    const size_t start = out.size();
    put32(out, 0);
    const bool coded = entropy && huffman_encode(stream.data(), stream.size(), out);
    if (!coded) out.insert(out.end(), stream.begin(), stream.end());
    const size_t size_and_kind = 2 * (out.size() - start - 4) + coded;
    for (size_t i = 0; i < 4; ++i) out[start + i] = uint8_t(size_and_kind >> (8 * i));
}

void write_section(Streams& streams, bool entropy, Bytes& out) {
    const Bytes signs = entropy ? split_signs(streams.values) : Bytes();
    put32(out, streams.masks.size());
    put32(out, streams.values.size());
    put32(out, streams.rest.size());
    write_stream(streams.presence, entropy, out);
    write_stream(streams.dc, entropy, out);
    write_stream(streams.masks, entropy, out);
    write_stream(streams.values, entropy, out);
    out.insert(out.end(), signs.begin(), signs.end());
    out.insert(out.end(), streams.rest.begin(), streams.rest.end());
}

void write_quantisation(const JpegCoefficients& image, Bytes& out) {
    uint8_t number[4] = {};
    std::vector<const uint16_t*> tables;
    for (size_t c = 0; c < image.components.size(); ++c) {
        const uint16_t* quant = image.components[c].quant;
        size_t t = 0;
        while (t < tables.size() && !std::equal(quant, quant + 64, tables[t])) ++t;
        if (t == tables.size()) tables.push_back(quant);
        number[c] = uint8_t(t);
    }
    out[7] = uint8_t(tables.size());
    out.insert(out.end(), number, number + 4);
    for (const uint16_t* table : tables)
        for (int i = 0; i < 64; ++i) out.insert(out.end(), {uint8_t(table[i]), uint8_t(table[i] >> 8)});
}

JpegCoefficients read_coefficients(const uint8_t* jpeg, size_t size) {
    if (is_huffman_sequential(jpeg, size)) return parse_jpeg(jpeg, size);
    JpegCoefficients image;
    const std::vector<uint8_t> sequential = jpeg_transform(jpeg, size);
    return parse_jpeg(sequential.data(), sequential.size());
}

}  // namespace

std::vector<uint8_t> dct_encode(const uint8_t* jpeg, size_t size, bool entropy) {
    const JpegCoefficients image = read_coefficients(jpeg, size);
    Bytes out;
    put32(out, dct_magic);
    out.insert(out.end(), {uint8_t(entropy), uint8_t(image.subsampling), uint8_t(image.rgb), 0});
    put32(out, size_t(image.width));
    put32(out, size_t(image.height));
    write_quantisation(image, out);
    for (size_t first = 0; first < image.components.size(); first = first ? 3 : 1) {
        Streams streams;
        for (size_t c = first; c < (first ? image.components.size() : 1); ++c)
            pack_component(image.components[c], streams);
        write_section(streams, entropy, out);
    }
    out.insert(out.end(), dct_padding, 0);
    return out;
}

}  // namespace fastload

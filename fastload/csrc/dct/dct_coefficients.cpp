// Converts a packed record back to quantized coefficients, without computing pixels.
#include <algorithm>
#include <stdexcept>
#include <string>

#include "dct_blocks.h"
#include "dct_format.h"
#include "jpeg_write.h"

namespace fastload {
namespace {

using Bytes = std::vector<uint8_t>;

// The decoded bytes of a stream, with room for whole vectors after them.
Bytes decoded(const DctStream& stream) {
    Bytes bytes(stream.count + 2 * dct_padding);
    if (stream.coded)
        scalar_kernels.huffman_decode(stream.data, stream.size, bytes.data(), stream.count, stream.count);
    else
        std::copy_n(stream.data, stream.count, bytes.data());
    return bytes;
}

struct OpenSection {
    explicit OpenSection(const DctSection& section)
        : presence(decoded(section.presence)),
          dc(decoded(section.dc)),
          masks(decoded(section.masks)),
          values(decoded(section.values)) {
        if (scalar_kernels.set_bits(presence.data(), section.presence.count) != section.masks.count ||
            scalar_kernels.set_bits(masks.data(), section.masks.count) != section.values.count)
            throw DctError("the streams of a packed image do not fit each other");
        if (section.signs) scalar_kernels.apply_signs(values.data(), section.signs, section.values.count);
        streams = {presence.data(), dc.data(),          masks.data(),
                   values.data(),   section.rest.data, section.rest.data + section.rest.count};
    }

    Bytes presence, dc, masks, values;
    BlockStreams streams;
};

void read_ac(BlockStreams& streams, int16_t* block) {
    const unsigned presence = *streams.presence++;
    for (int group = 0; group < 8; ++group) {
        if (!(presence >> group & 1)) continue;
        for (unsigned mask = *streams.masks++; mask; mask &= mask - 1) {
            int value = int8_t(*streams.values++);
            if (value == -128) value = read_large_value(streams);
            const int position = packed_to_natural[size_t(group * 8 + __builtin_ctz(mask))];
            if (position == 0) throw DctError("a packed image has a DC coefficient among its AC coefficients");
            block[position] = int16_t(value);
        }
    }
}

JpegComponent read_component(const DctComponent& packed, BlockStreams& streams) {
    JpegComponent component{};
    component.h = component.v = 1;
    component.width = packed.width;
    component.height = packed.height;
    component.blocks_w = packed.blocks_w;
    component.blocks_h = packed.blocks_h;
    std::copy_n(packed.quant, 64, component.quant);
    const size_t row_size = size_t(packed.blocks_w) * 64;
    component.coefficients.resize(row_size * size_t(packed.blocks_h));
    int16_t* row = component.coefficients.data();
    int above = 0;
    for (int y = 0; y < packed.blocks_h; ++y, row += row_size) {
        read_dc_row(streams, packed.blocks_w, packed.blocks_w, above, row, 64);
        above = row[0];
        for (int x = 0; x < packed.blocks_w; ++x) read_ac(streams, row + x * 64);
    }
    return component;
}

}  // namespace

JpegCoefficients dct_coefficients(const uint8_t* data, size_t size) {
    const DctRecord record = read_dct_record(data, size);
    const DctInfo& info = record.info;
    JpegCoefficients image{info.width, info.height, info.subsampling, info.rgb, {}};
    for (int s = 0, c = 0; s < record.sections; ++s) {
        try {
            OpenSection section(record.section[s]);
            for (const int end = c + record.section[s].components; c < end; ++c)
                image.components.push_back(read_component(record.component[c], section.streams));
        } catch (const std::invalid_argument& error) {
            throw DctError(std::string("damaged packed image: ") + error.what());
        }
    }
    image.components[0].h = chroma_divisor_x[info.subsampling];
    image.components[0].v = chroma_divisor_y[info.subsampling];
    return image;
}

}  // namespace fastload

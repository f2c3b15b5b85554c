#include "dct.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "dct_blocks.h"
#include "dct_format.h"

namespace fastload {
namespace {

// The position of a decoded stream in scratch memory, with room for whole vectors after it.
size_t scratch_size(const DctStream& stream) { return (stream.count + 2 * dct_padding) / 64 * 64; }

// The decoded bytes of a stream, in the record or in scratch memory, which then advances past them.
const uint8_t* decoded(const DctStream& stream, bool copied, const Kernels& kernels, uint8_t*& scratch) {
    if (!stream.coded && !copied) return stream.data;
    uint8_t* const place = scratch;
    scratch += scratch_size(stream);
    if (stream.coded)
        kernels.huffman_decode(stream.data, stream.size, place, stream.count);
    else
        std::copy_n(stream.data, stream.count, place);
    return place;
}

BlockStreams open_section(const DctSection& section, const Kernels& kernels, Buffer& memory) {
    uint8_t* scratch = memory.ensure(scratch_size(section.presence) + scratch_size(section.dc) +
                                     scratch_size(section.masks) + scratch_size(section.values));
    BlockStreams streams{};
    try {
        // A private copy: it is counted before it is used, and the file may be overwritten in between.
        streams.presence = decoded(section.presence, true, kernels, scratch);
        streams.dc = decoded(section.dc, true, kernels, scratch);
        streams.masks = decoded(section.masks, true, kernels, scratch);
        uint8_t* const values = scratch;
        streams.values = decoded(section.values, section.signs != nullptr, kernels, scratch);
        if (section.signs) kernels.apply_signs(values, section.signs, section.values.count);
    } catch (const std::invalid_argument& error) {
        throw DctError(std::string("damaged packed image: ") + error.what());
    }
    streams.rest = section.rest.data;
    streams.rest_end = section.rest.data + section.rest.count;
    if (kernels.set_bits(streams.presence, section.presence.count) != section.masks.count ||
        kernels.set_bits(streams.masks, section.masks.count) != section.values.count)
        throw DctError("the streams of a packed image do not fit each other");
    return streams;
}

}  // namespace

void DctDecoder::planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes, const Region& region) {
    const DctRecord record = read_dct_record(data, size);
    const DctInfo& info = record.info;
    BlockWindow windows[3];
    planes = {{}, info.components, info.width, info.height, info.subsampling, info.rgb};
    lay_out(planes, region, buffer, windows);
    for (int s = 0, c = 0; s < record.sections; ++s) {
        BlockStreams streams = open_section(record.section[s], kernels_, scratch_);
        for (const int end = c + record.section[s].components; c < end; ++c) {
            const DctComponent& component = record.component[c];
            const int rows = c + 1 == end ? windows[c].bottom : component.blocks_h;  // another one's blocks follow
            kernels_.decode_blocks(streams, component, windows[c], rows, rows_.ensure(row_scratch(component.blocks_w)));
        }
    }
}

void DctDecoder::streams_only(const uint8_t* data, size_t size) {
    const DctRecord record = read_dct_record(data, size);
    for (int s = 0; s < record.sections; ++s) open_section(record.section[s], kernels_, scratch_);
}

}  // namespace fastload

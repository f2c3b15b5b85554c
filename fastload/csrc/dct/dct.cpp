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

// The first `wanted` decoded bytes of a stream, in the record or in scratch memory, which then advances past them.
const uint8_t* decoded(const DctStream& stream, size_t wanted, bool copied, const Kernels& kernels, uint8_t*& scratch) {
    if (!stream.coded && !copied) return stream.data;
    uint8_t* const place = scratch;
    scratch += scratch_size(stream);
    if (stream.coded)
        kernels.huffman_decode(stream.data, stream.size, place, stream.count, wanted);
    else
        std::copy_n(stream.data, wanted, place);
    return place;
}

// The number of bits set in the first `count` bytes of `stream`, which says how many bytes of `next` are wanted.
size_t wanted_of(const DctStream& next, const DctStream& stream, const uint8_t* bytes, size_t count,
                 const Kernels& kernels) {
    const size_t wanted = kernels.set_bits(bytes, count);
    if (count == stream.count ? wanted != next.count : wanted > next.count)
        throw DctError("the streams of a packed image do not fit each other");
    return wanted;
}

// Decodes as much of the streams as the first `blocks` blocks need.
BlockStreams open_section(const DctSection& section, size_t blocks, const Kernels& kernels, Buffer& memory) {
    uint8_t* scratch = memory.ensure(scratch_size(section.presence) + scratch_size(section.dc) +
                                     scratch_size(section.masks) + scratch_size(section.values));
    BlockStreams streams{};
    try {
        // A private copy: it is counted before it is used, and the file may be overwritten in between.
        streams.presence = decoded(section.presence, blocks, true, kernels, scratch);
        streams.dc = decoded(section.dc, blocks, true, kernels, scratch);
        const size_t masks = wanted_of(section.masks, section.presence, streams.presence, blocks, kernels);
        streams.masks = decoded(section.masks, masks, true, kernels, scratch);
        const size_t values = wanted_of(section.values, section.masks, streams.masks, masks, kernels);
        uint8_t* const place = scratch;
        streams.values = decoded(section.values, values, section.signs != nullptr, kernels, scratch);
        if (section.signs) kernels.apply_signs(place, section.signs, values);
    } catch (const std::invalid_argument& error) {
        throw DctError(std::string("damaged packed image: ") + error.what());
    }
    streams.rest = section.rest.data;
    streams.rest_end = section.rest.data + section.rest.count;
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
        const DctSection& section = record.section[s];
        const int end = c + section.components, last_rows = windows[end - 1].bottom;
        const DctComponent& last = record.component[end - 1];
        const size_t blocks = section.presence.count - size_t(last.blocks_h - last_rows) * size_t(last.blocks_w);
        BlockStreams streams = open_section(section, blocks, kernels_, scratch_);
        for (; c < end; ++c) {
            const DctComponent& component = record.component[c];
            const int rows = c + 1 == end ? last_rows : component.blocks_h;  // another one's blocks follow
            kernels_.decode_blocks(streams, component, windows[c], rows, rows_.ensure(row_scratch(component.blocks_w)));
        }
    }
}

void DctDecoder::streams_only(const uint8_t* data, size_t size) {
    const DctRecord record = read_dct_record(data, size);
    for (int s = 0; s < record.sections; ++s)
        open_section(record.section[s], record.section[s].presence.count, kernels_, scratch_);
}

}  // namespace fastload

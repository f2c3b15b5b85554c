// Passes over blocks that are not decoded. Each file of kernels includes it once, after set_bits.h.
#pragma once

#include "dct_blocks.h"

namespace fastload {
namespace {

TARGET void skip_blocks(BlockStreams& streams, int count) {
    if (count == 0) return;
    const size_t masks = set_bits(streams.presence, size_t(count)), values = set_bits(streams.masks, masks);
    size_t large = 0;
    for (size_t i = 0; i < values; ++i) large += streams.values[i] == 128;
    streams.presence += count;
    streams.masks += masks;
    streams.values += values;
    for (; large; --large) read_large_value(streams);
}

}  // namespace
}  // namespace fastload

#include "dct_blocks.h"

namespace fastload {
namespace {

int read_rest(BlockStreams& streams) {
    if (streams.rest == streams.rest_end) throw DctError("a packed image's stream is cut short");
    return *streams.rest++;
}

}  // namespace

int read_large_value(BlockStreams& streams) {
    int u = read_rest(streams);
    if (u >= 128) u = (u & 127) | read_rest(streams) << 7;
    return u & 1 ? -(128 + u / 2) : 128 + u / 2;
}

void read_dc_row(BlockStreams& streams, int blocks, int wanted, int above, int16_t* dc, int stride) {
    ptrdiff_t escapes = 0;
    for (int x = 0; x < blocks; ++x) escapes += streams.dc[x] >= dc_escape;
    if (escapes > streams.rest_end - streams.rest) throw DctError("a packed image's stream is cut short");
    const uint8_t* low = streams.rest;
    int value = above;
    for (int x = 0; x < wanted; ++x) {
        const int byte = streams.dc[x], escape = byte >= dc_escape;
        const int large = dc_escape + (byte - dc_escape) * 256 + *low;  // at the end: a byte of padding
        const int u = escape ? large : byte;
        low += escape;
        value += (u >> 1) ^ -(u & 1);
        dc[x * stride] = int16_t(value);
    }
    streams.dc += blocks;
    streams.rest += escapes;
}

}  // namespace fastload

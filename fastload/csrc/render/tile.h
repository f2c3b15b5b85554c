// What `Kernels::warp` samples: pixels of a source that is drawn rotated or sheared.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastload {

constexpr size_t tile_slack = 8;    // bytes after a tile's last pixel that must be readable
constexpr int tile_side = 32767;    // pixels: positions are 16.16 fixed point

// Packed RGB pixels. No byte is further than 2^31 from the first.
struct Tile {
    const uint8_t* pixels;
    int stride;  // bytes
};

// Equidistant points in a tile, in 1/65536 pixel. At whole numbers they are centers of pixels. The sampled pixels, two by
// two at each point, must all be in the tile.
struct TilePath {
    int32_t x, y, dx, dy;
};

}  // namespace fastload

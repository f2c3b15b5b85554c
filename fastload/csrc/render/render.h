// Renders one image of a batch: draws the rows of its plan over one another, line by line, and writes the canvas.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "pixel_format.h"
#include "placed_row.h"

namespace fastload {

struct Canvas {
    int height, width;
    uint8_t fill[3];
    std::shared_ptr<const PixelFormat> format = packed_bytes();
    size_t bytes() const { return size_t(3) * height * width * format->sample_bytes(); }
};

// Writes every byte of a canvas once, in its format: the first `count` rows in order, and `fill` elsewhere.
void render(const Canvas& canvas, std::vector<PlacedRow>& rows, size_t count, Buffer& line_memory, uint8_t* out);

}  // namespace fastload

// COCO's run lengths as masks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bit_window.h"

namespace fastload {

// (x, y) -> m[.][0] * x + m[.][1] * y + m[.][2], in double precision
struct PreciseAffine {
    double m[2][3];
};

// The mask of a source, from its compressed run lengths: see fastload/sources/run_lengths.py.
class RunLengths {
public:
    // Throws std::runtime_error if the bytes are no mask of `width` x `height`.
    void open(const uint8_t* data, size_t size, int width, int height);

    // The pixels within `limit` of a canvas that show it, through `map` from the source to the canvas: those whose
    // centers lie in a set pixel of the source. Opens `bits` for them; false if there are none.
    bool draw(const PreciseAffine& map, const Window& limit, BitWindow& bits);

private:
    void draw_upright(const PreciseAffine& inverse, BitWindow& bits);
    void draw_turned(const PreciseAffine& inverse, BitWindow& bits);

    int width_ = 0, height_ = 0;
    std::vector<int64_t> ends_;  // of runs, in pixels from the first one, column by column; outside and inside in turn
    std::vector<int> rows_;      // the canvas row where a source row begins
    std::vector<uint8_t> pixels_;
};

}  // namespace fastload

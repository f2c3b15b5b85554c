// What a row of a plan shows on the masks of its slot, as far as whole rows hide it.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "bit_window.h"
#include "placement.h"

namespace fastload {

// The size of masks, of which each pixel has the center of `stride` x `stride` pixels of the canvas.
struct MaskSize {
    int width, height, stride;

    static MaskSize of(int canvas_width, int canvas_height, int stride) {
        return {(canvas_width + stride - 1) / stride, (canvas_height + stride - 1) / stride, stride};
    }
    // The pixel of the canvas at the center of a mask's pixel.
    int center(int pixel) const { return pixel * stride + stride / 2; }
    // The first pixel whose center is not before a pixel of the canvas.
    int from(int canvas_pixel) const { return (canvas_pixel - stride / 2 + stride - 1) / stride; }
};

// The rows of a slot, as masks see them.
class VisibleParts {
public:
    // Keeps a pointer to the placements.
    void open(const MaskSize& size, const Placement* rows, size_t count);

    // Moves on to a row.
    void go_to(size_t row);
    // What lies outside of this is hidden.
    const Window& window() const { return window_; }
    // Clears what is hidden in a mask, which is empty outside of `drawn`, a part of the window.
    void hide_in(uint8_t* mask, const Window& drawn) const {
        if (part_ && !drawn.empty()) part_->keep_in(mask, mask_row_bytes(size_.width), drawn);
    }

private:
    Window window_of(size_t row) const;
    bool covers(size_t row, size_t earlier) const;
    size_t ground_of(size_t row) const;
    // The pixels of line y of a mask that a row covers.
    Span span(size_t row, int y);
    // Keeps in the part what is in a row, or what is not.
    void keep(size_t row, bool inside);

    MaskSize size_{};
    const Placement* rows_ = nullptr;
    size_t count_ = 0;
    std::vector<std::vector<Span>> spans_;  // of warped rows, once they are needed
    Window window_{};
    std::optional<BitWindow> part_;  // none: all of the window
};

}  // namespace fastload

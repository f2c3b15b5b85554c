// The masks of a batch, drawn slot by slot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "mask_shapes.h"
#include "run_lengths.h"
#include "visible_part.h"

namespace fastload {

// The annotation of a row cannot be drawn.
struct MaskError : std::runtime_error {
    MaskError(int row, const std::string& reason) : std::runtime_error(reason), row(row) {}
    int row;
};

// The box around a mask, in pixels of it, and the number of its pixels; all 0 if it is empty.
struct MaskExtent {
    int64_t x0, y0, x1, y1, area;
};

class MaskBatch {
public:
    // An object, and the row of the batch that shows it. They are sorted by row.
    struct Shown {
        int64_t object;
        int row;
    };
    // A row's record, and the size (width, height) of the stored image.
    struct Source {
        int64_t index;
        int32_t size[2];
    };
    struct Workspace {
        VisibleParts visible;
        std::vector<Vertex> points;
        RunLengths run_lengths;
        BitWindow bits;
        std::vector<Window> windows;  // of the objects of a slot
        std::vector<uint8_t> cutout;
    };

    // `first_row` has the first row of each slot, then the end. With `measured`, memory has extents after the masks.
    MaskBatch(std::shared_ptr<const MaskShapes> shapes, const MaskSize& size, std::vector<Shown> shown,
              std::vector<Source> sources, const std::vector<int>& first_row, bool measured);

    const MaskSize& size() const { return size_; }
    size_t count() const { return shown_.size(); }
    bool measured() const { return measured_; }
    // (count, height, row_bytes) masks, then, aligned, (count) extents if they are measured.
    size_t row_bytes() const { return mask_row_bytes(size_.width); }
    size_t extents_at() const { return (count() * mask_bytes() + 63) / 64 * 64; }
    size_t bytes() const { return extents_at() + (measured_ ? count() * sizeof(MaskExtent) : 0); }

    // Writes the masks of a slot to their place in the batch's memory, which begins at `out` and is aligned to 8 bytes.
    // `placements` has all rows of the batch. Throws MaskError.
    void draw(int slot, const Placement* placements, uint8_t* out, Workspace& workspace) const;

    // Writes what a cut-out row shows of its source to `out`: (height, mask_row_bytes(width)) bits, for a canvas of this
    // size. Throws MaskError.
    void draw_cutout(int row, const Placement& placement, int width, int height, uint8_t* out, Workspace& workspace) const;

private:
    size_t mask_bytes() const { return row_bytes() * size_t(size_.height); }
    // The objects of the rows from `first` to `end`, exclusive.
    std::pair<size_t, size_t> shown_by(int first, int end) const;
    // Draws an object in an empty mask, without what is hidden. Returns the part of the mask that it has written to.
    Window draw(const Shown& shown, const Placement& placement, const MaskSize& size, uint8_t* mask,
              Workspace& workspace) const;
    // Clears what cut-out rows of a slot cover in the masks of the rows before them.
    void cover(int slot, const Placement* placements, uint8_t* out, Workspace& workspace) const;
    MaskExtent measure(const uint8_t* mask, const Window& window) const;

    std::shared_ptr<const MaskShapes> shapes_;
    MaskSize size_;
    std::vector<Shown> shown_;
    std::vector<Source> sources_;
    std::vector<int> first_row_;
    bool measured_;
};

}  // namespace fastload

// A row of a plan, drawn line by line.
#pragma once

#include <cstdint>

#include "adjustment.h"
#include "kernels.h"
#include "picture.h"
#include "placement.h"
#include "planes.h"
#include "warped.h"

namespace fastload {

class PlacedRow {
public:
    explicit PlacedRow(const Kernels& chosen = kernels())
        : kernels_(&chosen), picture_(chosen), warped_(chosen), adjustment_(chosen) {}

    // Throws std::runtime_error if it cannot be drawn.
    void open(const Placement& placement);
    // Whether it needs its source's planes before it is drawn: it has a source, which shows on the canvas.
    bool needs_source() const { return placement_.kind == Kind::source && !(placement_.warped && crop_.empty()); }
    // What is drawn of its source, and how much smaller it may be decoded if that is `scaled`.
    Region region(bool scaled) const { return region_of(view(), scaled); }
    // Sets its source's planes, of this region at least. They must stay as long as it is drawn.
    void set_source(const Planes& planes, TableCache& tables);
    const Placement& placement() const { return placement_; }
    // The color of a FILL row.
    const uint8_t* fill() const { return fill_; }

    // Whether it must see the pixels under it, by `count` and then `set_table`, before it is drawn.
    bool computes_table() const { return placement_.computes_table(); }
    // Counts the levels of `span` of a line as the row's other changes leave them.
    void count(Span span, const uint8_t* line, Histogram& histogram);
    void set_table(const Histogram& histogram) { adjustment_.set_table(histogram); }

    // Limits a cut-out row to the pixels of the canvas that are set in (height, row_bytes) `bits`, which must stay.
    void set_cutout(const uint8_t* bits, size_t row_bytes) { cutout_ = bits, cutout_row_bytes_ = row_bytes; }

    // The pixels of line y of the canvas that it covers.
    Span span(int y) const;
    // Draws `span` of line y, which it covers, over `line`, the pixels of the whole line.
    void draw(int y, Span span, uint8_t* line);
    // As Picture::draw, of a row that is plain.
    int draw_plain(int y, uint8_t* rgb, uint8_t* canvas) { return picture_.draw(y - placement_.clip[1], rgb, canvas); }

private:
    View view() const;  // of its source

    const Kernels* kernels_;
    Placement placement_{};
    uint8_t fill_[3]{};
    WarpedCrop crop_{};
    Picture picture_;
    WarpedPicture warped_;
    Adjustment adjustment_;
    const uint8_t* cutout_ = nullptr;
    size_t cutout_row_bytes_ = 0;
    Buffer memory_;
};

void fill_pixels(uint8_t* line, Span span, const uint8_t fill[3]);

}  // namespace fastload

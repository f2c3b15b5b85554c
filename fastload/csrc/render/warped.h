// Rows with a warp: the pixels that they cover, and their colors. The reference engine specifies both.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "picture.h"
#include "placement.h"
#include "planes.h"

namespace fastload {

// Where a row shows its crop: at the pixels of the clip whose centers lie in the crop when they are mapped to the source.
class WarpedCrop {
public:
    void open(const Placement& placement);
    // The pixels of line y of the canvas.
    Span span(int y) const {
        const int line = y - clip_[1];
        return line < 0 || line >= clip_[3] ? Span{0, 0} : spans_[size_t(line)];
    }
    // Whether it shows no pixel at all.
    bool empty() const { return !(seen_low_[0] <= seen_high_[0]); }
    // The lowest and the highest point of the source, on an axis, that the center of a pixel shows.
    double seen_low(int axis) const { return seen_low_[axis]; }
    double seen_high(int axis) const { return seen_high_[axis]; }
    // Maps a point of the canvas to the source.
    double unmap(int axis, double x, double y) const {
        const double moved[2] = {x - offset_[0], y - offset_[1]};
        const int other = 1 - axis;
        return (moved[axis] * matrix_[other][other] - moved[other] * matrix_[axis][other]) / determinant_;
    }

private:
    bool has(int x, int y) const;
    Span find_span(int y) const;

    double matrix_[2][2], offset_[2], determinant_;
    double low_[2], high_[2];  // the crop
    double seen_low_[2], seen_high_[2];
    int32_t clip_[4];
    std::vector<Span> spans_;  // of the clip's lines
};

// A source that is drawn with a warp. Its crop becomes a tile, drawn by the separable kernels with one pixel for each
// source pixel, or for each canvas pixel along an axis that shrinks (not if the filter is `nearest`), and sampled: to
// nearest if that is the filter, else bilinearly. Only the part of the tile that shows is drawn.
class WarpedPicture {
public:
    explicit WarpedPicture(const Kernels& chosen = kernels()) : kernels_(&chosen), picture_(chosen) {}

    // Of a crop that shows. Throws std::runtime_error if what shows of it is too large.
    void open(const Placement& placement, const WarpedCrop& crop);
    // The tile, as an axis-aligned view of the source.
    const View& view() const { return view_; }
    // Draws the tile.
    void set_source(const Planes& planes, const float color[3][4], TableCache& tables);
    // Draws pixels of line y of the canvas, which the crop covers, to `rgb`.
    void draw(int y, Span span, uint8_t* rgb) const;

private:
    // A point of the canvas in the tile's memory, on an axis; the center of its first pixel is 0.
    struct Map {
        double x, y, offset, last;
        double at(double px, double py) const;
    };

    const Kernels* kernels_;
    Picture picture_;
    View view_{};
    Map map_[2]{};
    int stride_ = 0;
    Buffer memory_;
};

}  // namespace fastload

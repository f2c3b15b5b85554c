// Rows with a warp: the pixels that they cover, and their colors. The reference engine specifies both.
#pragma once

#include <cstdint>

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
    Span span(int y) const;
    // Maps a point of the canvas to the source.
    double unmap(int axis, double x, double y) const {
        const double moved[2] = {x - offset_[0], y - offset_[1]};
        const int other = 1 - axis;
        return (moved[axis] * matrix_[other][other] - moved[other] * matrix_[axis][other]) / determinant_;
    }

private:
    bool has(int x, int y) const;

    double matrix_[2][2], offset_[2], determinant_;
    double low_[2], high_[2];  // the crop
    int32_t clip_[4];
};

// A source that is drawn with a warp. Its crop becomes a tile, drawn by the separable kernels with one pixel for each
// source pixel, or for each canvas pixel along an axis that shrinks (not if the filter is `nearest`), and sampled: to
// nearest if that is the filter, else bilinearly. Only the part of the tile that the clip shows is drawn.
class WarpedPicture {
public:
    explicit WarpedPicture(const Kernels& chosen = kernels()) : kernels_(&chosen), picture_(chosen) {}

    // Throws std::runtime_error if that part is too large.
    void open(const Planes& planes, const Placement& placement, const WarpedCrop& crop, TableCache& tables);
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
    Filter filter_ = Filter::bilinear;
    Map map_[2]{};
    int stride_ = 0;
    Buffer memory_;
};

}  // namespace fastload

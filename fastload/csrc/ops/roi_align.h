// RoIAlign over a pyramid of features, and its gradient.
//
// The weights of a box's bins factorize over the axes, and so do those of the cells in the gradient: both directions
// are sums of rows of C floats over a grid of taps, see weighted_sum.h.
#pragma once

#include <cstddef>
#include <vector>

namespace fastload {

// A level of (B, height, width, C) cells.
template <class Float>
struct Level {
    Float* data;
    size_t height, width;
    int stride;  // pixels per cell
};

// Boxes (B, P, 4) in pixels and the grid of bins that each is pooled to.
struct Regions {
    const float* boxes;
    const bool* valid;  // (B, P)
    size_t batch, count, channels;
    int size;     // bins along each side
    int samples;  // points along each side of a bin; 0: one for each cell or part of one, along each axis
};

// -> out (B, P, size, size, C). Boxes that are invalid, empty, not numbers or beyond 2^24 pixels give zeros.
void roi_align(const std::vector<Level<const float>>& levels, const Regions& regions, size_t threads, float* out);

// Adds the gradient to `levels`, given that of the output. The same bits with any number of threads.
void roi_align_backward(const std::vector<Level<float>>& levels, const Regions& regions, const float* grad,
                        size_t threads);

}  // namespace fastload

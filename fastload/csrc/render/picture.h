// An axis-aligned part of a source, drawn by the separable kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "filter.h"
#include "kernels.h"
#include "planes.h"
#include "region.h"
#include "resample.h"

namespace fastload {

// A part of a source, and the size at which it is drawn.
struct View {
    double x, y, w, h;  // in source pixels
    int width, height;
    bool flip;          // mirrors it left to right
    Filter filter = Filter::bilinear;
};

// What must be decoded to draw a view. `scaled`: at a smaller size if the filter shrinks that as well as the image.
Region region_of(const View& view, bool scaled);

// The matrix from planes, minus 128, to RGB: JFIF's for YCbCr (ITU-T T.871), or that of gray or RGB planes.
void to_rgb(const Planes& planes, double matrix[3][3]);

// Keeps the rows that it has resampled horizontally.
class Picture {
public:
    explicit Picture(const Kernels& chosen = kernels()) : kernels_(&chosen) {}

    void open(const Planes& planes, const View& view, const float color[3][4], TableCache& tables);
    // Draws row y of the view, `width` pixels, to `rgb`. Unless `canvas` is null, the first pixels may be written there
    // instead: returns their number.
    int draw(int y, uint8_t* rgb, uint8_t* canvas);

private:
    struct Channel {
        Plane plane;
        std::shared_ptr<const HorizontalTable> horizontal;
        std::shared_ptr<const VerticalTable> vertical;
        std::vector<int> held;           // the source row in each slot of `rows`; -1: empty
        std::vector<const int16_t*> wanted;
        int16_t *rows = nullptr, *blended = nullptr;
    };
    const int16_t* row(Channel& channel, int y);

    const Kernels* kernels_;
    Channel channels_[3]{};
    int count_ = 0, width_ = 0;
    size_t stride_ = 0;
    ColorMatrix matrix_{};
    Buffer memory_;
};

}  // namespace fastload

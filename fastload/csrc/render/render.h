// Renders one image of a batch: resamples the planes of its sources, converts their colors, and writes the canvas.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels.h"
#include "pixel_format.h"
#include "planes.h"
#include "resample.h"

namespace fastload {

// One row of a plan (see fastload/plan/batch_plan.py).
struct Placement {
    float crop[4];  // x, y, w, h in source pixels
    int32_t clip[4];  // x, y, w, h on the canvas
    bool flip;
    float color[3][4];
};

struct Canvas {
    int height, width;
    uint8_t fill[3];
    std::shared_ptr<const PixelFormat> format = packed_bytes();
    size_t bytes() const { return size_t(3) * height * width * format->sample_bytes(); }
};

// A source that is drawn on a canvas. Keeps the rows that it has resampled horizontally.
class Picture {
public:
    explicit Picture(const Kernels& chosen = kernels()) : kernels_(&chosen) {}

    void open(const Planes& planes, const Placement& placement, TableCache& tables);
    // Draws row y of the clip, placement.clip[2] pixels, to `rgb`. Unless `canvas` is null, the first pixels may be
    // written there instead: returns their number.
    int draw(int y, uint8_t* rgb, uint8_t* canvas);
    const Placement& placement() const { return placement_; }

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
    Placement placement_{};
    Channel channels_[3]{};
    int count_ = 0;
    size_t stride_ = 0;
    ColorMatrix matrix_{};
    Buffer memory_;
};

// The matrix from planes, minus 128, to RGB: JFIF's for YCbCr (ITU-T T.871), or that of gray or RGB planes.
void to_rgb(const Planes& planes, double matrix[3][3]);

// Writes every byte of a canvas once, in its format: the pictures, and `fill` elsewhere.
void render(const Canvas& canvas, std::vector<Picture>& pictures, size_t count, Buffer& row_memory, uint8_t* out);

}  // namespace fastload

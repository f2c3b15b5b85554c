// The colors of an ADJUST row: changes pixels that are already drawn.
#pragma once

#include <cstdint>

#include "color_change.h"
#include "kernels.h"
#include "placement.h"

namespace fastload {

class Adjustment {
public:
    explicit Adjustment(const Kernels& chosen = kernels()) : kernels_(&chosen) {}

    void open(const Placement& placement);
    // Changes `count` packed RGB pixels.
    void apply(uint8_t* rgb, int count) const;

private:
    const Kernels* kernels_;
    bool recolors_ = false;
    PixelMatrix matrix_{};
};

}  // namespace fastload

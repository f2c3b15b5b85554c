// Changes the colors of pixels that are already drawn.
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
    // Sets the table of a row that computes it from the pixels that it covers, with its other changes.
    void set_table(const Histogram& counted);
    // Changes packed RGB pixels; before `set_table`, without a computed table.
    void apply(uint8_t* rgb, size_t pixels) const;

private:
    const Kernels* kernels_;
    Placement::Table kind_ = Placement::Table::none;
    bool recolors_ = false, changes_hsv_ = false, looks_up_ = false;
    PixelMatrix matrix_{};
    HsvChange hsv_{};
    LevelTable table_{};
};

}  // namespace fastload

#include "adjustment.h"

namespace fastload {

void Adjustment::open(const Placement& placement) {
    recolors_ = false;
    for (int c = 0; c < 3; ++c)
        for (int k = 0; k < 4; ++k) recolors_ |= placement.color[c][k] != float(c == k);
    if (recolors_) matrix_ = pixel_matrix(placement.color);
    changes_hsv_ = placement.changes_hsv;
    if (changes_hsv_) hsv_ = hsv_change(placement.hsv);
    kind_ = placement.table;
    looks_up_ = kind_ == Placement::Table::given;
    if (looks_up_) table_ = *placement.levels;
}

void Adjustment::set_table(const Histogram& counted) {
    table_ = kind_ == Placement::Table::equalize ? equalize_table(counted) : autocontrast_table(counted);
    looks_up_ = true;
}

void Adjustment::apply(uint8_t* rgb, size_t pixels) const {
    if (recolors_) kernels_->recolor(rgb, pixels, matrix_);
    if (changes_hsv_) kernels_->adjust_hsv(rgb, pixels, hsv_);
    if (looks_up_) kernels_->look_up(rgb, pixels, table_);
}

}  // namespace fastload

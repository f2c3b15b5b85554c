#include "adjustment.h"

namespace fastload {

void Adjustment::open(const Placement& placement) {
    recolors_ = false;
    for (int c = 0; c < 3; ++c)
        for (int k = 0; k < 4; ++k) recolors_ |= placement.color[c][k] != float(c == k);
    if (recolors_) matrix_ = pixel_matrix(placement.color);
}

void Adjustment::apply(uint8_t* rgb, int count) const {
    if (recolors_) kernels_->recolor(rgb, size_t(count), matrix_);
}

}  // namespace fastload

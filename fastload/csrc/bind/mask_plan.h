// A view of a fastload.plan.masks.MaskPlan, and masks as tensors.
#pragma once

#include <memory>
#include <vector>

#include "mask_batch.h"
#include "plan_view.h"
#include "pool.h"

namespace fastload {

// Holds the plan's arrays. Construction and destruction need the GIL, reading does not.
class MaskPlan {
public:
    explicit MaskPlan(py::handle masks)
        : shapes_(masks.attr("shapes").cast<std::shared_ptr<MaskShapes>>()),
          objects_(masks.attr("objects").cast<Array<int64_t>>()), rows_(masks.attr("rows").cast<Array<int64_t>>()),
          stride_(masks.attr("stride").cast<int>()), measured_(masks.attr("measured").cast<bool>()) {
        require(objects_.size() == rows_.size(), "masks need a row for each object");
        require(stride_ >= 1 && stride_ <= 65535, "the stride of masks must be 1 to 65535");
    }

    // The masks of a batch whose first row is row `first` of `plan`. `next` is the first object that no batch has drawn.
    std::shared_ptr<const MaskBatch> batch(const PlanView& plan, py::ssize_t first, const std::vector<int>& first_row,
                                           int width, int height, size_t& next) const;

private:
    std::shared_ptr<const MaskShapes> shapes_;
    Array<int64_t> objects_, rows_;
    int stride_;
    bool measured_;
};

// DLPack capsules of the bits (M, height, row_bytes) uint8 and of the extents (M, 5) int64, or None if they were not
// measured. `memory` holds them, from `data` on.
py::tuple mask_tensors(const MaskBatch& masks, uint8_t* data, const std::shared_ptr<void>& memory);

// {row: reason}
py::dict to_dict(const std::vector<Failure>& failures);

}  // namespace fastload

// A view of a fastload.plan.BatchPlan: the only place where the core reads one.
#pragma once

#include <cmath>
#include <optional>
#include <string>

#include "bindings.h"
#include "geometry.h"
#include "render.h"

namespace fastload {

// Holds the plan's arrays. Construction and destruction need the GIL, reading does not.
class PlanView {
public:
    explicit PlanView(py::handle plan)
        : index(column<int64_t>(plan, "index")), slot(column<int32_t>(plan, "slot")),
          source(column<int32_t>(plan, "source")), crop(column<float>(plan, "crop")),
          clip(column<int32_t>(plan, "clip")), flip(column<bool>(plan, "flip")), color(column<float>(plan, "color")),
          size(column<int32_t>(plan, "size")), canvases(column<int32_t>(plan, "canvases")),
          fill(column<uint8_t>(plan, "fill")), min_visible(plan.attr("min_visible").cast<float>()), rows(index.size()),
          slots(size.size() / 2) {
        if (!plan.attr("warp").is_none()) warp = column<float>(plan, "warp");
        require(slot.size() == rows && source.size() == 2 * rows && crop.size() == 4 * rows && clip.size() == 4 * rows &&
                    flip.size() == rows && color.size() == 12 * rows && (!warp || warp->size() == 6 * rows) &&
                    size.size() == 2 * slots && canvases.size() == 2 * slots && fill.size() == 3,
                "the plan's arrays have inconsistent lengths");
    }

    void check_slots() const {
        for (py::ssize_t i = 0; i < rows; ++i)
            require(slot.data()[i] >= (i ? slot.data()[i - 1] : 0) && slot.data()[i] < slots,
                    "rows must be sorted by slot, and slots must exist in the plan");
    }

    // The map from a row's source to the canvas, and the limits of the visible part on both.
    struct Row {
        Affine map;
        Box crop, clip;
        bool aligned, flip;

        // The visible part of a source box, on the canvas. In an axis-aligned row, the crop maps to exactly the clip.
        Box shown(const Box& box) const { return map.map(aligned ? box : box.clipped_to(crop)).clipped_to(clip); }
    };
    Row row(py::ssize_t i) const {
        const float *const c = crop.data() + 4 * i, *const w = warp ? warp->data() + 6 * i : nullptr;
        const int32_t* const k = clip.data() + 4 * i;
        Row row{Affine::aligned(c, k, flip.data()[i]), box_of(c), box_of(k), !w || std::isnan(*w), flip.data()[i]};
        if (!row.aligned) std::copy_n(w, 6, row.map.m[0]);
        return row;
    }

    // An axis-aligned row, for the kernel.
    Placement placement(py::ssize_t i) const {
        Placement result;
        std::copy_n(crop.data() + 4 * i, 4, result.crop);
        std::copy_n(clip.data() + 4 * i, 4, result.clip);
        std::copy_n(color.data() + 12 * i, 12, result.color[0]);
        result.flip = flip.data()[i];
        return result;
    }

    // Columns of BatchPlan: N rows, B slots.
    Array<int64_t> index;
    Array<int32_t> slot, source;
    Array<float> crop;
    Array<int32_t> clip;
    Array<bool> flip;
    Array<float> color;
    Array<int32_t> size, canvases;
    Array<uint8_t> fill;
    std::optional<Array<float>> warp;
    float min_visible;
    py::ssize_t rows, slots;

private:
    template <class T>
    static Array<T> column(py::handle plan, const char* name) {
        py::object values = plan.attr(name);
        if (!Array<T>::check_(values))
            throw std::invalid_argument(std::string("the plan's ") + name +
                                        " is not a contiguous array of the type that BatchPlan documents");
        return py::reinterpret_steal<Array<T>>(values.release());
    }
};

}  // namespace fastload

// A view of a fastload.plan.BatchPlan: the only place where the core reads one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "bindings.h"
#include "geometry.h"
#include "placement.h"

namespace fastload {

constexpr int64_t fill_row = -1, adjust_row = -2;  // indexes of rows without a source

// Holds the plan's arrays. Construction and destruction need the GIL, reading does not.
class PlanView {
public:
    explicit PlanView(py::handle plan)
        : index(column<int64_t>(plan, "index")), slot(column<int32_t>(plan, "slot")),
          source(column<int32_t>(plan, "source")), crop(column<float>(plan, "crop")),
          clip(column<int32_t>(plan, "clip")), flip(column<bool>(plan, "flip")), color(column<float>(plan, "color")),
          size(column<int32_t>(plan, "size")), canvases(column<int32_t>(plan, "canvases")),
          fill(column<uint8_t>(plan, "fill")), min_visible(plan.attr("min_visible").cast<float>()),
          min_size(plan.attr("min_size").cast<float>()), max_aspect(plan.attr("max_aspect").cast<float>()),
          rows(index.size()), slots(size.size() / 2) {
        warp = optional_column<float>(plan, "warp", 6);
        alpha = optional_column<float>(plan, "alpha", 1);
        layer = optional_column<int32_t>(plan, "layer", 1);
        centers = optional_column<float>(plan, "centers", 4);
        filter = optional_column<uint8_t>(plan, "filter", 1);
        hsv = optional_column<float>(plan, "hsv", 5);
        table = optional_column<int32_t>(plan, "table", 1);
        objects = optional_column<int32_t>(plan, "objects", 2);
        if (!plan.attr("selected").is_none()) selected = column<int64_t>(plan, "selected");
        if (!plan.attr("tables").is_none()) tables = column<uint8_t>(plan, "tables");
        require(!tables || (tables->ndim() == 3 && tables->shape(1) == 3 && tables->shape(2) == 256),
                "the plan's tables are not (T, 3, 256)");
        require(slot.size() == rows && source.size() == 2 * rows && crop.size() == 4 * rows && clip.size() == 4 * rows &&
                    flip.size() == rows && color.size() == 12 * rows &&
                    size.size() == 2 * slots && canvases.size() == 2 * slots && fill.size() == 3,
                "the plan's arrays have inconsistent lengths");
    }

    void check_slots() const {
        for (py::ssize_t i = 0; i < rows; ++i)
            require(slot.data()[i] >= (i ? slot.data()[i - 1] : 0) && slot.data()[i] < slots,
                    "rows must be sorted by slot, and slots must exist in the plan");
    }

    // Some of the objects of a cache, in ascending order; or all of them.
    struct Selection {
        const int64_t *begin = nullptr, *end = nullptr;
        bool is_all() const { return !begin; }
        bool has(int64_t object) const { return is_all() || std::binary_search(begin, end, object); }
    };
    Selection selection(py::ssize_t i) const {
        const int32_t* const range = objects ? objects->data() + 2 * i : nullptr;
        if (!range || range[0] < 0) return {};
        require(selected && range[0] <= range[1] && range[1] <= selected->size(), "the plan's objects are not in `selected`");
        return {selected->data() + range[0], selected->data() + range[1]};
    }

    // The map from a row's source to the canvas, and the limits of the visible part on both.
    struct Row {
        Affine map;
        Box crop, clip;
        bool aligned, flip;
        Selection selection;   // of the objects that are shown
        const float* centers;  // null, or the box of the source in which the centers of boxes must lie

        // Whether the center of a source box is where it must be.
        bool holds_center(const Box& box) const {
            if (!centers) return true;
            const float x = (box.x0 + box.x1) / 2, y = (box.y0 + box.y1) / 2;
            return x >= centers[0] && y >= centers[1] && x <= centers[2] && y <= centers[3];
        }
        // The visible part of a source box, on the canvas. In an axis-aligned row, the crop maps to exactly the clip.
        Box shown(const Box& box) const { return map.map(aligned ? box : box.clipped_to(crop)).clipped_to(clip); }
    };
    Row row(py::ssize_t i) const {
        const float *const c = crop.data() + 4 * i, *const w = warp ? warp->data() + 6 * i : nullptr;
        const int32_t* const k = clip.data() + 4 * i;
        Row row{Affine::aligned(c, k, flip.data()[i]), box_of(c), box_of(k), !w || std::isnan(*w), flip.data()[i],
                selection(i), centers ? centers->data() + 4 * i : nullptr};
        if (!row.aligned) std::copy_n(w, 6, row.map.m[0]);
        return row;
    }

    // A row for the renderer. Its alpha must be from 0 to 1.
    Placement placement(py::ssize_t i) const {
        const int64_t number = index.data()[i];
        Placement result{};
        result.kind = number == fill_row ? Kind::fill : number == adjust_row ? Kind::adjust : Kind::source;
        std::copy_n(crop.data() + 4 * i, 4, result.crop);
        std::copy_n(clip.data() + 4 * i, 4, result.clip);
        std::copy_n(color.data() + 12 * i, 12, result.color[0]);
        result.flip = flip.data()[i];
        result.cutout = !selection(i).is_all();
        result.warped = warp && !std::isnan(warp->data()[6 * i]);
        if (result.warped) std::copy_n(warp->data() + 6 * i, 6, result.warp[0]);
        if (alpha) result.alpha = Placement::opacity_of(alpha->data()[i]);
        if (layer) result.layer = layer->data()[i];
        if (filter) result.filter = Filter(filter->data()[i]);
        if (result.kind == Kind::adjust) set_changes(i, result);
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
    std::optional<Array<float>> warp, alpha, centers, hsv;
    std::optional<Array<int32_t>> layer, table, objects;
    std::optional<Array<int64_t>> selected;
    std::optional<Array<uint8_t>> filter, tables;  // tables: (T, 3, 256)
    float min_visible, min_size, max_aspect;
    py::ssize_t rows, slots;

    static constexpr int32_t no_table = -1, autocontrast = -2, equalize = -3;  // values of `table`
    py::ssize_t table_count() const { return tables ? tables->size() / py::ssize_t(sizeof(LevelTable)) : 0; }

private:
    // Sets the changes of an ADJUST row besides its color matrix.
    void set_changes(py::ssize_t i, Placement& result) const {
        if (hsv) {
            std::copy_n(hsv->data() + 5 * i, 5, result.hsv);
            constexpr float unchanged[5] = {0, 1, 0, 1, 0};
            result.changes_hsv = !std::equal(unchanged, unchanged + 5, result.hsv);
        }
        const int32_t number = table ? table->data()[i] : no_table;
        if (number == autocontrast) result.table = Placement::Table::autocontrast;
        if (number == equalize) result.table = Placement::Table::equalize;
        if (number < 0) return;
        auto levels = std::make_shared<LevelTable>();
        std::memcpy(levels.get(), tables->data() + size_t(number) * sizeof(LevelTable), sizeof(LevelTable));
        result.table = Placement::Table::given;
        result.levels = std::move(levels);
    }

    template <class T>
    static Array<T> column(py::handle plan, const char* name) {
        py::object values = plan.attr(name);
        if (!Array<T>::check_(values))
            throw std::invalid_argument(std::string("the plan's ") + name +
                                        " is not a contiguous array of the type that BatchPlan documents");
        return py::reinterpret_steal<Array<T>>(values.release());
    }

    // `values` for each row, or none.
    template <class T>
    std::optional<Array<T>> optional_column(py::handle plan, const char* name, py::ssize_t values) const {
        if (plan.attr(name).is_none()) return std::nullopt;
        Array<T> found = column<T>(plan, name);
        require(found.size() == values * rows, "the plan's arrays have inconsistent lengths");
        return found;
    }
};

}  // namespace fastload

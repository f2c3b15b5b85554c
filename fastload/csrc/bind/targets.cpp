// The targets of placed plans: the boxes of a cache mapped onto the canvases and padded, and the position of each
// source. In NumPy this would take longer than the rest of planning.
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "plan_view.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

constexpr float uncut = 1.f / 64;  // pixels a side may move by rounding and still count as not cut
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct Shown {
    Box box;
    float area;
    int64_t object;  // row of the annotations
    int64_t row;     // row of the plan that shows it
};

// The values of `Targets` for one slot, besides its boxes. `sources` is the number of sources that it shows.
struct Slot {
    size_t first_box = 0, boxes = 0;
    int sources = 0;
    Affine matrix{{{nan, nan, nan}, {nan, nan, nan}}};
    float scale[2] = {nan, nan}, offset[2] = {nan, nan};
    bool flip = false;
};

// The columns of `Targets` with one value per slot.
struct Columns {
    explicit Columns(py::ssize_t b)
        : image_id(b), size({b, py::ssize_t(2)}), original_size({b, py::ssize_t(2)}),
          matrix({b, py::ssize_t(2), py::ssize_t(3)}), scale({b, py::ssize_t(2)}), offset({b, py::ssize_t(2)}), flip(b),
          num_boxes(b), num_sources(b) {}
    py::tuple result() const { return py::make_tuple(image_id, matrix, scale, offset, flip, size, original_size); }

    Array<int64_t> image_id, size, original_size;
    Array<float> matrix, scale, offset;
    Array<bool> flip;
    Array<int64_t> num_boxes, num_sources;
};

// The boxes of all batches, one batch after another, each padded to the fullest slot of its batch. A batch is the slots
// up to one of `ends`. With `objects`, also the annotation and the plan's row of each box.
class Padded {
public:
    Padded(const std::vector<Slot>& slots, const std::vector<size_t>& ends, bool objects)
        : ends_(ends), starts_(ends.size() + 1) {
        int64_t* start = starts_.mutable_data();
        *start = 0;
        size_t begin = 0;
        for (size_t end : ends) {
            size_t width = 0;
            for (size_t s = begin; s < end; ++s) width = std::max(width, slots[s].boxes);
            start[1] = *start + int64_t((end - begin) * width);
            ++start;
            begin = end;
        }
        boxes_ = Array<float>(4 * *start);
        labels_ = Array<int64_t>(*start);
        crowd_ = Array<bool>(*start);
        area_ = Array<float>(*start);
        objects_ = Array<int64_t>(objects ? *start : 0);
        rows_ = Array<int64_t>(objects ? *start : 0);
    }

    // `labels` and `crowds` have a value for each object of the cache.
    void fill(const std::vector<Slot>& slots, const std::vector<Shown>& shown, const int32_t* labels,
              const bool* crowds) {
        auto* box = reinterpret_cast<Box*>(boxes_.mutable_data());
        int64_t* label = labels_.mutable_data();
        bool* crowd = crowd_.mutable_data();
        float* area = area_.mutable_data();
        for (size_t k = 0, s = 0; k < ends_.size(); ++k) {
            const size_t width = size_t(this->width(k));
            for (; s < ends_[k]; ++s) {
                const Shown* const first = shown.data() + slots[s].first_box;
                for (const Shown* one = first; one < first + slots[s].boxes; ++one) {
                    *box++ = one->box;
                    *label++ = labels[one->object];
                    *crowd++ = crowds[one->object];
                    *area++ = one->area;
                }
                const size_t rest = width - slots[s].boxes;
                box = std::fill_n(box, rest, Box{0, 0, 0, 0});
                label = std::fill_n(label, rest, int64_t(-1));
                crowd = std::fill_n(crowd, rest, false);
                area = std::fill_n(area, rest, 0.f);
            }
        }
        if (objects_.size()) fill_objects(slots, shown);
    }

    py::tuple result() const { return py::make_tuple(boxes_, labels_, crowd_, area_, objects_, rows_, starts_); }

private:
    void fill_objects(const std::vector<Slot>& slots, const std::vector<Shown>& shown) {
        int64_t *object = objects_.mutable_data(), *row = rows_.mutable_data();
        for (size_t k = 0, s = 0; k < ends_.size(); ++k)
            for (; s < ends_[k]; ++s) {
                const Shown* const first = shown.data() + slots[s].first_box;
                for (const Shown* one = first; one < first + slots[s].boxes; ++one) {
                    *object++ = one->object;
                    *row++ = one->row;
                }
                const size_t rest = size_t(width(k)) - slots[s].boxes;
                object = std::fill_n(object, rest, int64_t(-1));
                row = std::fill_n(row, rest, int64_t(-1));
            }
    }

    int64_t slots(size_t batch) const { return int64_t(ends_[batch] - (batch ? ends_[batch - 1] : 0)); }
    // Boxes per slot of a batch, padding included.
    int64_t width(size_t batch) const {
        return slots(batch) ? (starts_.data()[batch + 1] - starts_.data()[batch]) / slots(batch) : 0;
    }

    const std::vector<size_t>& ends_;
    Array<int64_t> starts_;  // of each batch's boxes
    Array<float> boxes_;
    Array<int64_t> labels_;
    Array<bool> crowd_;
    Array<float> area_;
    Array<int64_t> objects_, rows_;
};

// The polygons of objects: of object i the rings from rings[i] to rings[i + 1], of ring r the points from points[r] to
// points[r + 1].
class Outlines {
public:
    Outlines(Array<float> values, Array<int64_t> rings, Array<int64_t> points)
        : values_(std::move(values)), rings_(std::move(rings)), points_(std::move(points)) {
        require(rings_.size() >= 1 && points_.size() >= 1, "the offsets of polygons are empty");
    }
    py::ssize_t objects() const { return rings_.size() - 1; }

    // The smallest box around the mapped points of an object, each moved into `limit` before unless that is null. None
    // if it has no points.
    std::optional<Box> bounds(int64_t object, const Affine& map, const Box* limit) const {
        const int64_t first_ring = rings_.data()[object], end_ring = rings_.data()[object + 1];
        require(0 <= first_ring && first_ring <= end_ring && end_ring < points_.size(), "polygons reach beyond the rings");
        const int64_t first = points_.data()[first_ring], end = points_.data()[end_ring];
        require(0 <= first && first <= end && 2 * end <= values_.size(), "rings reach beyond the points");
        if (first == end) return std::nullopt;
        constexpr float most = std::numeric_limits<float>::max();
        Box box{most, most, -most, -most};
        for (const float* p = values_.data() + 2 * first; p < values_.data() + 2 * end; p += 2) {
            Box point{p[0], p[1], p[0], p[1]};
            if (limit) point = point.clipped_to(*limit);
            const Point mapped = map.map(Point{point.x0, point.y0});
            box = {std::min(box.x0, mapped.x), std::min(box.y0, mapped.y), std::max(box.x1, mapped.x),
                   std::max(box.y1, mapped.y)};
        }
        return box;
    }

private:
    Array<float> values_;
    Array<int64_t> rings_, points_;
};

// The annotations of a cache, as flat arrays.
class Annotations {
public:
    Annotations(Array<int64_t> box_offsets, Array<float> boxes, Array<int32_t> labels, Array<bool> crowd,
                Array<float> area, Array<int64_t> image_ids, Array<int32_t> sizes, Array<int32_t> source_sizes,
                std::optional<Outlines> outlines)
        : offsets_(std::move(box_offsets)), boxes_(std::move(boxes)), labels_(std::move(labels)),
          crowd_(std::move(crowd)), area_(std::move(area)), image_ids_(std::move(image_ids)), sizes_(std::move(sizes)),
          source_sizes_(std::move(source_sizes)), outlines_(std::move(outlines)), images_(image_ids_.size()),
          count_(labels_.size()) {
        require(!outlines_ || outlines_->objects() == count_, "there must be outlines for each object");
        require(offsets_.size() == images_ + 1 && sizes_.size() == 2 * images_ && source_sizes_.size() == 2 * images_ &&
                    boxes_.size() == 4 * count_ && crowd_.size() == count_ && area_.size() == count_,
                "the arrays of the annotations have inconsistent lengths");
    }

    // The slots up to each of `ends` are a batch. Slots in `failed` get no boxes. `slot_index` is the first or only
    // image of each slot. With `objects`, the result includes the annotation and the plan's row of each box.
    py::tuple place(py::handle batch_plan, const Array<int64_t>& slot_index, const std::vector<size_t>& ends,
                    const std::vector<size_t>& failed, bool objects) const {
        const PlanView plan(batch_plan);
        require(slot_index.size() == plan.slots, "slot_index must have an image for each slot");
        std::vector<Slot> slots(slot_index.size());
        std::vector<Shown> shown;
        {
            WithoutGil without_gil;
            check(plan, slot_index, ends, failed);
            show(plan, slot_index, failed, slots, shown);
        }
        Columns columns(slot_index.size());
        Padded padded(slots, ends, objects);
        {
            WithoutGil without_gil;
            fill(plan, slot_index, slots, columns);
            padded.fill(slots, shown, labels_.data(), crowd_.data());
        }
        return py::make_tuple(columns.result(), padded.result(), columns.num_boxes, columns.num_sources);
    }

private:
    int64_t image(int64_t index) const {
        require(index >= 0 && index < images_, "an index is not that of an image");
        return index;
    }

    void check(const PlanView& plan, const Array<int64_t>& slot_index, const std::vector<size_t>& ends,
               const std::vector<size_t>& failed) const {
        plan.check_slots();
        const auto b = size_t(plan.slots);
        for (size_t s = 0; s < b; ++s) image(slot_index.data()[s]);
        for (size_t s : failed) require(s < b, "a failed slot is not in the plan");
        require(std::is_sorted(ends.begin(), ends.end()) && (ends.empty() ? 0 : ends.back()) <= b,
                "batches must be in order and within the plan");
    }

    void show(const PlanView& plan, const Array<int64_t>& slot_index, const std::vector<size_t>& failed,
              std::vector<Slot>& slots, std::vector<Shown>& shown) const {
        int32_t last = -1;
        for (py::ssize_t i = 0; i < plan.rows; ++i) {
            const int32_t s = plan.slot.data()[i];
            Slot& slot = slots[s];
            if (s != last) slot.first_box = shown.size();
            last = s;
            const int64_t index = plan.index.data()[i];
            if (index == fill_row || index == adjust_row) continue;
            const PlanView::Row row = plan.row(i);
            locate(plan, i, row, slot_index.data()[s], slot);
            if (std::find(failed.begin(), failed.end(), size_t(s)) == failed.end())
                show(plan, row, i, image(index), shown);
            slot.boxes = shown.size() - slot.first_box;
        }
    }

    // Sets the map from the annotated image to the canvas. It is NaN if the slot shows another image or several; scale
    // and offset are NaN also if the row is not axis-aligned.
    void locate(const PlanView& plan, py::ssize_t i, const PlanView::Row& row, int64_t index, Slot& slot) const {
        if (slot.sources++ || plan.index.data()[i] != index) {
            slot = {slot.first_box, slot.boxes, slot.sources};
            return;
        }
        slot.matrix = row.map;
        for (int axis = 0; axis < 2; ++axis) {
            const double stored = sizes_.data()[2 * index + axis], annotated = source_sizes_.data()[2 * index + axis];
            for (auto& to : slot.matrix.m) to[axis] = float(double(to[axis]) * stored / annotated);
            if (!row.aligned) continue;
            const bool mirrored = axis == 0 && row.flip;
            const float of_stored = std::abs(row.map.m[axis][axis]);  // canvas pixels per pixel of the stored image
            const double whole = mirrored ? double(plan.source.data()[2 * i]) * of_stored : 0;
            slot.offset[axis] = float(row.map.m[axis][2] - whole);
            slot.scale[axis] = float(double(of_stored) * stored / annotated);
        }
        slot.flip = row.flip;
    }

    // The box rules are documented in fastload/plan/transforms/__init__.py.
    void show(const PlanView& plan, const PlanView::Row& row, int64_t number, int64_t index,
              std::vector<Shown>& shown) const {
        const int64_t begin = offsets_.data()[index], end = offsets_.data()[index + 1];
        require(0 <= begin && begin <= end && end <= count_, "box offsets reach beyond the boxes");
        for (int64_t k = begin; k < end; ++k) {
            if (!row.selection.has(k)) continue;
            const Box& source = reinterpret_cast<const Box*>(boxes_.data())[k];
            const std::optional<Box> outline =
                row.aligned || !outlines_ || crowd_.data()[k] ? std::nullopt : outlines_->bounds(k, row.map, nullptr);
            const Box whole = outline ? *outline : row.map.map(source);
            const Box box = outline ? outlines_->bounds(k, row.map, &row.crop)->clipped_to(row.clip) : row.shown(source);
            const bool cut = whole.differs_from(box, uncut);
            const float visible = cut ? box.area() / whole.area() : 1;
            if (cut && !(visible >= plan.min_visible && box.width() >= 1 && box.height() >= 1)) continue;
            const auto [shorter, longer] = std::minmax({box.width(), box.height()});
            if (shorter < plan.min_size || longer > plan.max_aspect * shorter || !row.holds_center(source)) continue;
            shown.push_back({box, area_.data()[k] * std::abs(row.map.determinant()) * visible, k, number});
        }
    }

    void fill(const PlanView& plan, const Array<int64_t>& slot_index, const std::vector<Slot>& slots, Columns& to) const {
        for (size_t s = 0; s < slots.size(); ++s) {
            const int64_t index = slot_index.data()[s];
            to.image_id.mutable_data()[s] = image_ids_.data()[index];
            to.flip.mutable_data()[s] = slots[s].flip;
            to.num_boxes.mutable_data()[s] = int64_t(slots[s].boxes);
            to.num_sources.mutable_data()[s] = slots[s].sources;
            std::copy_n(slots[s].matrix.m[0], 6, to.matrix.mutable_data() + 6 * s);
            for (int axis = 0; axis < 2; ++axis) {
                to.scale.mutable_data()[2 * s + axis] = slots[s].scale[axis];
                to.offset.mutable_data()[2 * s + axis] = slots[s].offset[axis];
                // Height before width, as in torch.
                to.size.mutable_data()[2 * s + axis] = plan.size.data()[2 * s + 1 - axis];
                to.original_size.mutable_data()[2 * s + axis] = source_sizes_.data()[2 * index + 1 - axis];
            }
        }
    }

    Array<int64_t> offsets_;
    Array<float> boxes_;
    Array<int32_t> labels_;
    Array<bool> crowd_;
    Array<float> area_;
    Array<int64_t> image_ids_;
    Array<int32_t> sizes_, source_sizes_;
    std::optional<Outlines> outlines_;
    py::ssize_t images_, count_;
};

}  // namespace

void bind_targets(py::module_& m) {
    py::class_<Annotations>(m, "Annotations", "The annotations of a cache's images, as flat arrays.")
        .def(py::init([](Array<int64_t> box_offsets, Array<float> boxes, Array<int32_t> labels, Array<bool> crowd,
                         Array<float> area, Array<int64_t> image_ids, Array<int32_t> sizes,
                         Array<int32_t> source_sizes,
                         std::optional<std::tuple<Array<float>, Array<int64_t>, Array<int64_t>>> polygons) {
                 std::optional<Outlines> outlines;
                 if (polygons) outlines = std::make_from_tuple<Outlines>(std::move(*polygons));
                 return Annotations(std::move(box_offsets), std::move(boxes), std::move(labels), std::move(crowd),
                                    std::move(area), std::move(image_ids), std::move(sizes), std::move(source_sizes),
                                    std::move(outlines));
             }),
             py::arg("box_offsets").noconvert(), py::arg("boxes").noconvert(), py::arg("labels").noconvert(),
             py::arg("crowd").noconvert(), py::arg("area").noconvert(), py::arg("image_ids").noconvert(),
             py::arg("sizes").noconvert(), py::arg("source_sizes").noconvert(),
             py::arg("polygons") = py::none(),
             "`polygons` are the values, the offsets of objects and those of rings of the column: with them, boxes in "
             "images that are turned are those of the turned polygons.")
        .def("place", &Annotations::place, py::arg("plan"), py::arg("slot_index").noconvert(), py::arg("ends"),
             py::arg("failed"), py::arg("objects") = false,
             "The targets of a placed plan whose slots show the images `slot_index`. Slots in `failed` get no boxes. "
             "Returns four things. (1) For each slot: image_id, matrix, scale, offset, flip, size, original_size, as "
             "in `Targets`. (2) For the boxes of all batches, padded and one batch after another, a batch being the "
             "slots up to one of `ends`: boxes, labels, crowd, area; the row of the annotations and the row of the "
             "plan (-1: padding; both empty without `objects`); the start of each batch. (3) The number of boxes of "
             "each slot. (4) The number of sources of each slot.");
}

}  // namespace fastload

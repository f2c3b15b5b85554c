// The targets of placed plans: ragged lists of boxes from a cache's flat arrays onto the canvases, padded, and where each
// source lies. NumPy would spend more on these than on all the rest of planning.
#include <cmath>
#include <limits>
#include <vector>

#include "bindings.h"
#include "tensor.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

constexpr float uncut = 1.f / 64;  // pixels a side may move by rounding and still count as not cut
constexpr float nan = std::numeric_limits<float>::quiet_NaN();

struct Box {
    float x0, y0, x1, y1;
    float area() const { return (x1 - x0) * (y1 - y0); }
};

// A row of the plan: x -> affine[0] * x + affine[2], y -> affine[1] * y + affine[3], shown within rect x, y, w, h.
// affine[0] is negative for a flipped row; the steps of the calculation are those of `BatchPlan.affine`.
struct Row {
    float affine[4];
    const int32_t* rect;

    Row(const float* crop, const int32_t* rect, bool flip) : rect(rect) {
        affine[0] = float(double(rect[2]) / crop[2]);
        affine[1] = float(double(rect[3]) / crop[3]);
        if (flip) affine[0] = -affine[0];
        for (int axis = 0; axis < 2; ++axis)
            affine[2 + axis] = float(double(rect[axis]) - double(crop[axis] * affine[axis]));
        if (flip) affine[2] = float(double(affine[2]) + rect[2]);
    }
    Box map(const Box& box) const {
        const float x0 = affine[0] * box.x0 + affine[2], x1 = affine[0] * box.x1 + affine[2];
        const float y0 = affine[1] * box.y0 + affine[3], y1 = affine[1] * box.y1 + affine[3];
        return {std::min(x0, x1), std::min(y0, y1), std::max(x0, x1), std::max(y0, y1)};
    }
    Box clip(const Box& box) const {
        const float left = rect[0], top = rect[1], right = left + rect[2], bottom = top + rect[3];
        return {std::clamp(box.x0, left, right), std::clamp(box.y0, top, bottom), std::clamp(box.x1, left, right),
                std::clamp(box.y1, top, bottom)};
    }
};

struct Shown {
    Box box;
    float area;
    int64_t object;  // whose box it is: a row of the annotations
};

// What `Targets` holds of a slot beside its boxes. `sources` counts those it shows.
struct Slot {
    size_t first_box = 0, boxes = 0;
    int sources = 0;
    float scale[2] = {nan, nan}, offset[2] = {nan, nan};
    bool flip = false;
};

// What `Targets` has for each slot of a plan.
struct Columns {
    explicit Columns(py::ssize_t b)
        : image_id(b), size({b, py::ssize_t(2)}), original_size({b, py::ssize_t(2)}), scale({b, py::ssize_t(2)}),
          offset({b, py::ssize_t(2)}), flip(b), num_boxes(b), num_sources(b) {}
    py::tuple result() const { return py::make_tuple(image_id, scale, offset, flip, size, original_size); }

    Array<int64_t> image_id, size, original_size;
    Array<float> scale, offset;
    Array<bool> flip;
    Array<int64_t> num_boxes, num_sources;
};

// The boxes of batches, which are the slots up to each of `ends`; padded to the fullest slot of the batch. Of all batches,
// one after another. With `objects`, also whose boxes they are.
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
        boxes_.reset(new Box[*start]);
        labels_.reset(new int64_t[*start]);
        crowd_ = Array<bool>(*start);
        area_ = Array<float>(*start);
        objects_ = Array<int64_t>(objects ? *start : 0);
    }

    // `labels` and `crowds` are those of all objects.
    void fill(const std::vector<Slot>& slots, const std::vector<Shown>& shown, const int32_t* labels,
              const bool* crowds) {
        Box* box = boxes_.get();
        int64_t* label = labels_.get();
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

    // What training always looks at comes as a tensor a batch, the rest as arrays of all.
    py::tuple result() const {
        py::list boxes(ends_.size()), labels(ends_.size());
        for (size_t k = 0; k < ends_.size(); ++k) {
            const int64_t b = slots(k), g = width(k), start = starts_.data()[k];
            auto* const first = reinterpret_cast<float*>(boxes_.get() + start);
            boxes[k] = to_capsule<3>(first, element_type<float>, {b, g, 4}, {4 * g, 4, 1}, boxes_);
            labels[k] = to_capsule<2>(labels_.get() + start, element_type<int64_t>, {b, g}, {g, 1}, labels_);
        }
        return py::make_tuple(boxes, labels, crowd_, area_, objects_, starts_);
    }

private:
    void fill_objects(const std::vector<Slot>& slots, const std::vector<Shown>& shown) {
        int64_t* object = objects_.mutable_data();
        for (size_t k = 0, s = 0; k < ends_.size(); ++k)
            for (; s < ends_[k]; ++s) {
                const Shown* const first = shown.data() + slots[s].first_box;
                for (const Shown* one = first; one < first + slots[s].boxes; ++one) *object++ = one->object;
                object = std::fill_n(object, size_t(width(k)) - slots[s].boxes, int64_t(-1));
            }
    }

    int64_t slots(size_t batch) const { return int64_t(ends_[batch] - (batch ? ends_[batch - 1] : 0)); }
    // G of a batch
    int64_t width(size_t batch) const {
        return slots(batch) ? (starts_.data()[batch + 1] - starts_.data()[batch]) / slots(batch) : 0;
    }

    const std::vector<size_t>& ends_;
    Array<int64_t> starts_;  // of each batch's boxes
    std::shared_ptr<Box[]> boxes_;
    std::shared_ptr<int64_t[]> labels_;
    Array<bool> crowd_;
    Array<float> area_;
    Array<int64_t> objects_;
};

struct Plan {
    const Array<int32_t>& slot;    // (N)
    const Array<int32_t>& source;  // (N, 2)
    const Array<float>& crop;      // (N, 4)
    const Array<int32_t>& rect;    // (N, 4)
    const Array<bool>& flip;       // (N)
    const Array<int32_t>& size;    // (B, 2)
    const Array<int64_t>& row_index;   // (N) each row's image
    const Array<int64_t>& slot_index;  // (B) each slot's first or only image
    float min_visible;

    void check() const {
        const py::ssize_t n = slot.size(), b = slot_index.size();
        require(source.size() == 2 * n && crop.size() == 4 * n && rect.size() == 4 * n && flip.size() == n &&
                    row_index.size() == n && size.size() == 2 * b,
                "the plan's arrays disagree in length");
        for (py::ssize_t i = 0; i < n; ++i)
            require(slot.data()[i] >= (i ? slot.data()[i - 1] : 0) && slot.data()[i] < b,
                    "rows must be sorted by slot, and slots be those of the batch");
    }
};

// A cache's annotations, as its arrays.
class Annotations {
public:
    Annotations(Array<int64_t> box_offsets, Array<float> boxes, Array<int32_t> labels, Array<bool> crowd,
                Array<float> area, Array<int64_t> image_ids, Array<int32_t> sizes, Array<int32_t> source_sizes)
        : offsets_(std::move(box_offsets)), boxes_(std::move(boxes)), labels_(std::move(labels)),
          crowd_(std::move(crowd)), area_(std::move(area)), image_ids_(std::move(image_ids)), sizes_(std::move(sizes)),
          source_sizes_(std::move(source_sizes)), images_(image_ids_.size()), count_(labels_.size()) {
        require(offsets_.size() == images_ + 1 && sizes_.size() == 2 * images_ && source_sizes_.size() == 2 * images_ &&
                    boxes_.size() == 4 * count_ && crowd_.size() == count_ && area_.size() == count_,
                "the annotations' arrays disagree in length");
    }

    // The slots up to each of `ends` are a batch; those of `failed` keep no boxes. With `objects`, says whose boxes they are.
    py::tuple place(const Array<int64_t>& row_index, const Array<int32_t>& slot, const Array<int32_t>& source,
                    const Array<float>& crop, const Array<int32_t>& rect, const Array<bool>& flip,
                    const Array<int32_t>& size, const Array<int64_t>& slot_index, float min_visible,
                    const std::vector<size_t>& ends, const std::vector<size_t>& failed, bool objects) const {
        const Plan plan{slot, source, crop, rect, flip, size, row_index, slot_index, min_visible};
        std::vector<Slot> slots(slot_index.size());
        std::vector<Shown> shown;
        {
            WithoutGil without_gil;
            check(plan, ends, failed);
            show(plan, failed, slots, shown);
        }
        Columns columns(slot_index.size());
        Padded padded(slots, ends, objects);
        {
            WithoutGil without_gil;
            fill(plan, slots, columns);
            padded.fill(slots, shown, labels_.data(), crowd_.data());
        }
        return py::make_tuple(columns.result(), padded.result(), columns.num_boxes, columns.num_sources);
    }

private:
    int64_t image(int64_t index) const {
        require(index >= 0 && index < images_, "no image of that index");
        return index;
    }

    void check(const Plan& plan, const std::vector<size_t>& ends, const std::vector<size_t>& failed) const {
        plan.check();
        const size_t b = plan.slot_index.size();
        for (size_t s = 0; s < b; ++s) image(plan.slot_index.data()[s]);
        for (size_t s : failed) require(s < b, "a failed slot is beyond the batch");
        require(std::is_sorted(ends.begin(), ends.end()) && (ends.empty() ? 0 : ends.back()) <= b,
                "batches must be in order and within the plan");
    }

    void show(const Plan& plan, const std::vector<size_t>& failed, std::vector<Slot>& slots,
              std::vector<Shown>& shown) const {
        int32_t last = -1;
        for (py::ssize_t i = 0; i < plan.slot.size(); ++i) {
            const int32_t s = plan.slot.data()[i];
            Slot& slot = slots[s];
            if (s != last) slot.first_box = shown.size();
            last = s;
            const Row row(plan.crop.data() + 4 * i, plan.rect.data() + 4 * i, plan.flip.data()[i]);
            locate(plan, i, row, slot);
            const int64_t index = image(plan.row_index.data()[i]);
            if (std::find(failed.begin(), failed.end(), size_t(s)) == failed.end())
                show(row, index, plan.min_visible, shown);
            slot.boxes = shown.size() - slot.first_box;
        }
    }

    // Where the corner of the whole source lies and how large one of its pixels is; NaN where that is not the slot's
    // own image, and it alone.
    void locate(const Plan& plan, py::ssize_t i, const Row& row, Slot& slot) const {
        const int64_t index = plan.slot_index.data()[plan.slot.data()[i]];
        if (slot.sources++ || plan.row_index.data()[i] != index) {
            slot = {slot.first_box, slot.boxes, slot.sources};
            return;
        }
        slot.flip = plan.flip.data()[i];
        for (int axis = 0; axis < 2; ++axis) {
            const float of_stored = std::abs(row.affine[axis]);  // canvas pixels a pixel of the stored image
            const bool mirrored = axis == 0 && slot.flip;
            const double whole = mirrored ? double(plan.source.data()[2 * i]) * of_stored : 0;
            slot.offset[axis] = float(row.affine[2 + axis] - whole);
            slot.scale[axis] = float(double(of_stored) * sizes_.data()[2 * index + axis] /
                                     source_sizes_.data()[2 * index + axis]);
        }
    }

    // The rules of plan/transforms.py: an uncut box stays; a cut one must keep enough of itself.
    void show(const Row& row, int64_t index, float min_visible, std::vector<Shown>& shown) const {
        const int64_t begin = offsets_.data()[index], end = offsets_.data()[index + 1];
        require(0 <= begin && begin <= end && end <= count_, "box offsets beyond the boxes");
        for (int64_t k = begin; k < end; ++k) {
            const Box whole = row.map(reinterpret_cast<const Box*>(boxes_.data())[k]), box = row.clip(whole);
            const bool cut = std::abs(whole.x0 - box.x0) > uncut || std::abs(whole.x1 - box.x1) > uncut ||
                             std::abs(whole.y0 - box.y0) > uncut || std::abs(whole.y1 - box.y1) > uncut;
            const float visible = cut ? box.area() / whole.area() : 1;
            if (cut && !(visible >= min_visible && box.x1 - box.x0 >= 1 && box.y1 - box.y0 >= 1)) continue;
            const float area = area_.data()[k] * std::abs(row.affine[0] * row.affine[1]) * visible;
            shown.push_back({box, area, k});
        }
    }

    void fill(const Plan& plan, const std::vector<Slot>& slots, Columns& to) const {
        for (size_t s = 0; s < slots.size(); ++s) {
            const int64_t index = plan.slot_index.data()[s];
            to.image_id.mutable_data()[s] = image_ids_.data()[index];
            to.flip.mutable_data()[s] = slots[s].flip;
            to.num_boxes.mutable_data()[s] = int64_t(slots[s].boxes);
            to.num_sources.mutable_data()[s] = slots[s].sources;
            for (int axis = 0; axis < 2; ++axis) {
                to.scale.mutable_data()[2 * s + axis] = slots[s].scale[axis];
                to.offset.mutable_data()[2 * s + axis] = slots[s].offset[axis];
                // Height before width, as torch has it.
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
    py::ssize_t images_, count_;
};

}  // namespace

void bind_targets(py::module_& m) {
    py::class_<Annotations>(m, "Annotations", "The annotations of a cache's images, as flat arrays.")
        .def(py::init<Array<int64_t>, Array<float>, Array<int32_t>, Array<bool>, Array<float>, Array<int64_t>,
                      Array<int32_t>, Array<int32_t>>(),
             py::arg("box_offsets").noconvert(), py::arg("boxes").noconvert(), py::arg("labels").noconvert(),
             py::arg("crowd").noconvert(), py::arg("area").noconvert(), py::arg("image_ids").noconvert(),
             py::arg("sizes").noconvert(), py::arg("source_sizes").noconvert())
        .def("place", &Annotations::place, py::arg("row_index").noconvert(), py::arg("slot").noconvert(),
             py::arg("source").noconvert(), py::arg("crop").noconvert(), py::arg("rect").noconvert(),
             py::arg("flip").noconvert(), py::arg("size").noconvert(), py::arg("slot_index").noconvert(),
             py::arg("min_visible"), py::arg("ends"), py::arg("failed"), py::arg("objects") = false,
             "The targets of a placed plan, whose slots show the images `slot_index`: image_id, scale, offset, flip, size, "
             "original_size as in `Targets`; boxes and labels likewise, DLPack capsules for each batch, which are the slots "
             "up to each of `ends`; crowd and area of all batches, with `objects` also the row of the annotations that each "
             "box is of (-1: padding), and where each batch's begin; for each slot the number of boxes and of sources. Slots "
             "of `failed` get no boxes.");
}

}  // namespace fastload

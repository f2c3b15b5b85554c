// The boxes of a batch: from a cache's flat arrays onto the canvas, padded. They are ragged lists, on which NumPy spends
// more than on all the rest of planning.
#include <algorithm>
#include <cmath>
#include <vector>

#include "bindings.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

constexpr float uncut = 1.f / 64;  // pixels a side may move by rounding and still count as not cut

struct Box {
    float x0, y0, x1, y1;
    float area() const { return (x1 - x0) * (y1 - y0); }
};

struct Annotations {
    const int64_t* offsets;
    int64_t images, boxes;
    const Box* box;
    const int32_t* label;
    const bool* crowd;
    const float* area;
};

// A row of the plan: x -> affine[0] * x + affine[2], y -> affine[1] * y + affine[3], shown within rect x, y, w, h.
struct Row {
    const float* affine;
    const int32_t* rect;

    Box map(const Box& box) const {
        const auto [x0, x1] = std::minmax({affine[0] * box.x0 + affine[2], affine[0] * box.x1 + affine[2]});
        const auto [y0, y1] = std::minmax({affine[1] * box.y0 + affine[3], affine[1] * box.y1 + affine[3]});
        return {x0, y0, x1, y1};
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
    int64_t source;
};

// The rules of plan/transforms.py: an uncut box stays; a cut one must keep enough of itself.
bool show(const Row& row, const Annotations& from, int64_t source, float min_visible, Shown& shown) {
    const Box whole = row.map(from.box[source]), box = row.clip(whole);
    const bool cut = std::abs(whole.x0 - box.x0) > uncut || std::abs(whole.x1 - box.x1) > uncut ||
                     std::abs(whole.y0 - box.y0) > uncut || std::abs(whole.y1 - box.y1) > uncut;
    const float visible = cut ? box.area() / whole.area() : 1;
    shown = {box, from.area[source] * std::abs(row.affine[0] * row.affine[1]) * visible, source};
    return !cut || (visible >= min_visible && box.x1 - box.x0 >= 1 && box.y1 - box.y0 >= 1);
}

// The boxes left of each slot. The slots of `failed` keep none.
std::vector<std::vector<Shown>> shown_boxes(const Annotations& from, const Array<int64_t>& index,
                                            const Array<int32_t>& slot, const Array<float>& affine,
                                            const Array<int32_t>& rect, float min_visible,
                                            const std::vector<bool>& failed) {
    std::vector<std::vector<Shown>> shown(failed.size());
    for (py::ssize_t i = 0; i < index.size(); ++i) {
        const int64_t image = index.data()[i];
        const int32_t s = slot.data()[i];
        require(image >= 0 && image < from.images, "no image of that index");
        require(s >= 0 && size_t(s) < failed.size(), "a row's slot is beyond the batch");
        const int64_t begin = from.offsets[image], end = from.offsets[image + 1];
        require(0 <= begin && begin <= end && end <= from.boxes, "box offsets beyond the boxes");
        if (failed[s]) continue;
        shown[s].reserve(shown[s].size() + (end - begin));
        const Row row{affine.data() + 4 * i, rect.data() + 4 * i};
        Shown box;
        for (int64_t source = begin; source < end; ++source)
            if (show(row, from, source, min_visible, box)) shown[s].push_back(box);
    }
    return shown;
}

py::tuple place_boxes(const Array<int64_t>& offsets, const Array<float>& boxes, const Array<int32_t>& label,
                      const Array<bool>& crowd, const Array<float>& area, const Array<int64_t>& index,
                      const Array<int32_t>& slot, const Array<float>& affine, const Array<int32_t>& rect,
                      float min_visible, int64_t batch, const std::vector<int64_t>& failed) {
    const py::ssize_t n = index.size(), m = label.size();
    require(offsets.size() >= 1 && boxes.size() == 4 * m && crowd.size() == m && area.size() == m,
            "the annotations' arrays disagree in length");
    require(slot.size() == n && affine.size() == 4 * n && rect.size() == 4 * n, "the plan's arrays disagree in length");
    require(batch >= 0 && batch <= n + (1 << 20), "an absurd batch size");
    std::vector<bool> without(batch, false);
    for (int64_t s : failed) {
        require(s >= 0 && s < batch, "a failed slot is beyond the batch");
        without[s] = true;
    }
    const Annotations from{offsets.data(), offsets.size() - 1, m, reinterpret_cast<const Box*>(boxes.data()),
                           label.data(), crowd.data(), area.data()};
    const auto shown = shown_boxes(from, index, slot, affine, rect, min_visible, without);

    size_t width = 0;
    for (const auto& list : shown) width = std::max(width, list.size());
    const auto g = py::ssize_t(width);
    Array<float> out_boxes({py::ssize_t(batch), g, py::ssize_t(4)}), out_area({py::ssize_t(batch), g});
    Array<int64_t> out_label({py::ssize_t(batch), g}), count(batch);
    Array<bool> out_crowd({py::ssize_t(batch), g});
    for (int64_t s = 0; s < batch; ++s) {
        Box* to = reinterpret_cast<Box*>(out_boxes.mutable_data()) + s * g;
        float* to_area = out_area.mutable_data() + s * g;
        int64_t* to_label = out_label.mutable_data() + s * g;
        bool* to_crowd = out_crowd.mutable_data() + s * g;
        count.mutable_data()[s] = int64_t(shown[s].size());
        for (const Shown& one : shown[s]) {
            *to++ = one.box;
            *to_area++ = one.area;
            *to_label++ = from.label[one.source];
            *to_crowd++ = from.crowd[one.source];
        }
        const size_t rest = width - shown[s].size();
        std::fill_n(to, rest, Box{0, 0, 0, 0});
        std::fill_n(to_area, rest, 0.f);
        std::fill_n(to_label, rest, int64_t(-1));
        std::fill_n(to_crowd, rest, false);
    }
    return py::make_tuple(out_boxes, out_label, out_crowd, out_area, count);
}

}  // namespace

void bind_boxes(py::module_& m) {
    m.def("place_boxes", &place_boxes, py::arg("box_offsets").noconvert(), py::arg("boxes").noconvert(),
          py::arg("labels").noconvert(), py::arg("crowd").noconvert(), py::arg("area").noconvert(),
          py::arg("index").noconvert(), py::arg("slot").noconvert(), py::arg("affine").noconvert(),
          py::arg("rect").noconvert(), py::arg("min_visible"), py::arg("batch"), py::arg("failed"),
          "The boxes of a placed plan, padded with zeros and labels of -1: boxes (B, G, 4), labels, crowd, area (B, G), "
          "number of boxes (B).");
}

}  // namespace fastload

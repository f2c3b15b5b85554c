// Where the sources of a batch lie on its canvases: some arithmetic per image, which NumPy's overhead would multiply.
#include <cmath>
#include <limits>
#include <vector>

#include "bindings.h"

namespace fastload {
namespace {

// x -> a[0] * x + a[2], y -> a[1] * y + a[3] takes source to canvas pixels; a[0] is negative for a flipped row.
void row_affine(const float* crop, const int32_t* rect, bool flip, float* a) {
    a[0] = float(double(rect[2]) / crop[2]);
    a[1] = float(double(rect[3]) / crop[3]);
    if (flip) a[0] = -a[0];
    for (int axis = 0; axis < 2; ++axis) a[2 + axis] = float(double(rect[axis]) - double(crop[axis] * a[axis]));
    if (flip) a[2] = float(double(a[2]) + rect[2]);
}

// Of the rows: affine (N, 4). Of the slots: scale and offset (B, 2) of `Targets`, NaN where they do not show one source.
py::tuple place_slots(const Array<int32_t>& slot, const Array<int32_t>& source, const Array<float>& crop,
                      const Array<int32_t>& rect, const Array<bool>& flip, const Array<int32_t>& size,
                      const Array<int64_t>& index, const Array<int32_t>& sizes, const Array<int32_t>& source_sizes) {
    const py::ssize_t n = slot.size(), batch = index.size(), images = sizes.size() / 2;
    require(source.size() == 2 * n && crop.size() == 4 * n && rect.size() == 4 * n && flip.size() == n,
            "the plan's arrays disagree in length");
    require(size.size() == 2 * batch && source_sizes.size() == sizes.size(), "sizes disagree in length");
    Array<float> affine({n, py::ssize_t(4)}), scale({batch, py::ssize_t(2)}), offset({batch, py::ssize_t(2)});
    Array<bool> flipped(batch);
    Array<int64_t> shown({batch, py::ssize_t(2)}), original({batch, py::ssize_t(2)});
    std::vector<int> sources(batch, 0);
    for (py::ssize_t i = 0; i < n; ++i) {
        require(slot.data()[i] >= 0 && slot.data()[i] < batch, "a row's slot is beyond the batch");
        row_affine(crop.data() + 4 * i, rect.data() + 4 * i, flip.data()[i], affine.mutable_data() + 4 * i);
        ++sources[slot.data()[i]];
    }
    std::fill_n(scale.mutable_data(), 2 * batch, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(offset.mutable_data(), 2 * batch, std::numeric_limits<float>::quiet_NaN());
    std::fill_n(flipped.mutable_data(), batch, false);
    py::tuple counts(batch);
    for (py::ssize_t s = 0; s < batch; ++s) {
        const int64_t image = index.data()[s];
        require(image >= 0 && image < images, "no image of that index");
        for (int axis = 0; axis < 2; ++axis) {  // height before width, as torch has it
            shown.mutable_data()[2 * s + axis] = size.data()[2 * s + 1 - axis];
            original.mutable_data()[2 * s + axis] = source_sizes.data()[2 * image + 1 - axis];
        }
        counts[s] = py::int_(sources[s]);
    }
    for (py::ssize_t i = 0; i < n; ++i) {
        const int32_t s = slot.data()[i];
        if (sources[s] != 1) continue;
        const float* a = affine.data() + 4 * i;
        const int64_t image = index.data()[s];
        flipped.mutable_data()[s] = flip.data()[i];
        for (int axis = 0; axis < 2; ++axis) {
            const float of_stored = std::abs(a[axis]);  // canvas pixels a pixel of the stored image
            const bool mirrored = axis == 0 && flip.data()[i];
            const double whole = mirrored ? double(source.data()[2 * i]) * of_stored : 0;
            offset.mutable_data()[2 * s + axis] = float(a[2 + axis] - whole);
            scale.mutable_data()[2 * s + axis] = float(double(of_stored) * sizes.data()[2 * image + axis] /
                                                       source_sizes.data()[2 * image + axis]);
        }
    }
    return py::make_tuple(affine, scale, offset, flipped, shown, original, counts);
}

}  // namespace

void bind_slots(py::module_& m) {
    m.def("place_slots", &place_slots, py::arg("slot").noconvert(), py::arg("source").noconvert(),
          py::arg("crop").noconvert(), py::arg("rect").noconvert(), py::arg("flip").noconvert(),
          py::arg("size").noconvert(), py::arg("index").noconvert(), py::arg("sizes").noconvert(),
          py::arg("source_sizes").noconvert(),
          "The geometry of a placed plan for the records `index` (B): the rows' affine (N, 4) as `BatchPlan.affine`, and "
          "of each slot scale, offset (B, 2), flip (B), size, original_size (B, 2) as in `Targets`, number of sources.");
}

}  // namespace fastload

// Operations of detectors on boxes and features, see fastload/ops.
#include <string>
#include <vector>

#include "bindings.h"
#include "nms.h"
#include "parallel.h"
#include "roi_align.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

Ints batched_nms(const Floats& boxes, const Floats& scores, const Ints& labels, double threshold, std::size_t limit,
                 std::size_t threads) {
    const bool shapes_agree = boxes.ndim() == 3 && boxes.shape(2) == 4 && scores.ndim() == 2 && labels.ndim() == 2 &&
                              scores.shape(0) == boxes.shape(0) && scores.shape(1) == boxes.shape(1) &&
                              labels.shape(0) == boxes.shape(0) && labels.shape(1) == boxes.shape(1);
    if (!shapes_agree) throw std::invalid_argument("nms takes boxes (B, N, 4), scores (B, N) and labels (B, N)");
    const std::size_t batch = std::size_t(boxes.shape(0)), n = std::size_t(boxes.shape(1));
    require(n < std::size_t{1} << 32, "nms takes fewer than 2^32 boxes per image");
    limit = std::min(limit, n);
    Ints kept({batch, limit});
    std::int64_t* out = kept.mutable_data();
    std::fill_n(out, batch * limit, -1);
    const float* box = boxes.data();
    const float* score = scores.data();
    const std::int64_t* label = labels.data();
    {
        WithoutGil without_gil;
        constexpr std::size_t worth_a_thread = 10'000;  // boxes
        in_parallel(batch, std::min(threads, batch * n / worth_a_thread + 1), [&](std::size_t i) {
            nms(box + 4 * i * n, score + i * n, label + i * n, n, threshold, limit, out + i * limit);
        });
    }
    return kept;
}

using Features = std::vector<Array<float>>;

// Checks all that the loops rely on. `bins` is the output or its gradient.
Regions regions_of(const Features& levels, const Array<float>& boxes, const Array<bool>& valid,
                   const std::vector<int>& strides, int samples, const Array<float>& bins) {
    constexpr py::ssize_t most = 1 << 30;  // cells along a side
    require(boxes.ndim() == 3 && boxes.shape(2) == 4, "boxes are (B, P, 4)");
    require(valid.ndim() == 2 && valid.shape(0) == boxes.shape(0) && valid.shape(1) == boxes.shape(1),
            "valid is (B, P)");
    require(bins.ndim() == 5 && bins.shape(0) == boxes.shape(0) && bins.shape(1) == boxes.shape(1) &&
                bins.shape(2) == bins.shape(3),
            "bins are (B, P, size, size, C)");
    require(bins.shape(2) >= 1 && bins.shape(2) <= 256, "size is 1 to 256");
    require(samples >= 0 && samples <= 256, "samples is 0 to 256");
    require(!levels.empty() && levels.size() == strides.size(), "each level has a stride");
    for (size_t i = 0; i < levels.size(); ++i) {
        const Array<float>& level = levels[i];
        require(level.ndim() == 4 && level.shape(0) == boxes.shape(0) && level.shape(3) == bins.shape(4),
                "levels are (B, h, w, C)");
        require(level.shape(1) >= 1 && level.shape(2) >= 1 && level.shape(1) <= most && level.shape(2) <= most,
                "levels have cells");
        require(strides[i] >= 1, "strides are positive");
    }
    return {boxes.data(),           valid.data(), size_t(boxes.shape(0)), size_t(boxes.shape(1)),
            size_t(bins.shape(4)), int(bins.shape(2)), samples};
}

void pool_regions(const Features& levels, const Array<float>& boxes, const Array<bool>& valid,
                  const std::vector<int>& strides, int samples, size_t threads, Array<float>& out) {
    const Regions regions = regions_of(levels, boxes, valid, strides, samples, out);
    std::vector<Level<const float>> cells;
    for (size_t i = 0; i < levels.size(); ++i)
        cells.push_back({levels[i].data(), size_t(levels[i].shape(1)), size_t(levels[i].shape(2)), strides[i]});
    float* const bins = out.mutable_data();
    const WithoutGil without_gil;
    roi_align(cells, regions, threads, bins);
}

void add_gradients(Features levels, const Array<float>& boxes, const Array<bool>& valid,
                   const std::vector<int>& strides, int samples, size_t threads, const Array<float>& grad) {
    const Regions regions = regions_of(levels, boxes, valid, strides, samples, grad);
    std::vector<Level<float>> cells;
    for (size_t i = 0; i < levels.size(); ++i)
        cells.push_back({levels[i].mutable_data(), size_t(levels[i].shape(1)), size_t(levels[i].shape(2)), strides[i]});
    const float* const bins = grad.data();
    const WithoutGil without_gil;
    roi_align_backward(cells, regions, bins, threads);
}

}  // namespace

void bind_ops(py::module_& m) {
    m.def("roi_align", &pool_regions, py::arg("levels").noconvert(), py::arg("boxes").noconvert(),
          py::arg("valid").noconvert(), py::arg("strides"), py::arg("samples"), py::arg("threads"),
          py::arg("out").noconvert(),
          "RoIAlign of boxes (B, P, 4), those that are valid (B, P), from levels (B, h, w, C)\n"
          "to out (B, P, size, size, C), which is written. 0 samples depend on the size of a bin.");
    m.def("roi_align_backward", &add_gradients, py::arg("levels").noconvert(), py::arg("boxes").noconvert(),
          py::arg("valid").noconvert(), py::arg("strides"), py::arg("samples"), py::arg("threads"),
          py::arg("grad").noconvert(), "Adds the gradient of `roi_align` to levels, given that of its result.");
    m.def("nms", &batched_nms, py::arg("boxes"), py::arg("scores"), py::arg("labels"), py::arg("threshold"),
          py::arg("limit"), py::arg("threads"),
          "Greedy class-aware NMS of each image: boxes (B, N, 4), scores (B, N), labels (B, N) -> kept indices\n"
          "(B, min(limit, N)), best first, filled up with -1. A score of -inf is no box.");
}

}  // namespace fastload

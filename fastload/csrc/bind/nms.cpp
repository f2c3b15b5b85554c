#include "nms.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <vector>

#include "bindings.h"

namespace fastload {
namespace {

struct Box {
    double x0, y0, x1, y1, area;
    std::int64_t label;
};

// In double precision, like the PyTorch version, so that both decide alike for float coordinates.
double iou(const Box& a, const Box& b) {
    const double width = std::min(a.x1, b.x1) - std::max(a.x0, b.x0);
    const double height = std::min(a.y1, b.y1) - std::max(a.y0, b.y0);
    if (width <= 0 || height <= 0) return 0;
    const double overlap = width * height;
    return overlap / (a.area + b.area - overlap);
}

}  // namespace

std::size_t nms(const float* boxes, const float* scores, const std::int64_t* labels, std::size_t n, double threshold,
                std::size_t limit, std::int64_t* kept) {
    std::vector<std::size_t> order;
    for (std::size_t i = 0; i < n; ++i)
        if (scores[i] > -std::numeric_limits<float>::infinity()) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });

    std::vector<Box> winners;
    for (const std::size_t i : order) {
        if (winners.size() == limit) break;
        const float* p = boxes + 4 * i;
        const Box box{p[0], p[1], p[2], p[3], (double(p[2]) - p[0]) * (double(p[3]) - p[1]), labels[i]};
        const bool suppressed = std::any_of(winners.begin(), winners.end(), [&](const Box& winner) {
            return winner.label == box.label && iou(winner, box) > threshold;
        });
        if (suppressed) continue;
        kept[winners.size()] = std::int64_t(i);
        winners.push_back(box);
    }
    return winners.size();
}

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Ints = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

Ints batched_nms(const Floats& boxes, const Floats& scores, const Ints& labels, double threshold, std::size_t limit) {
    const bool shapes_agree = boxes.ndim() == 3 && boxes.shape(2) == 4 && scores.ndim() == 2 && labels.ndim() == 2 &&
                              scores.shape(0) == boxes.shape(0) && scores.shape(1) == boxes.shape(1) &&
                              labels.shape(0) == boxes.shape(0) && labels.shape(1) == boxes.shape(1);
    if (!shapes_agree) throw std::invalid_argument("nms takes boxes (B, N, 4), scores (B, N) and labels (B, N)");
    const std::size_t batch = std::size_t(boxes.shape(0)), n = std::size_t(boxes.shape(1));
    limit = std::min(limit, n);
    Ints kept({batch, limit});
    std::int64_t* out = kept.mutable_data();
    std::fill_n(out, batch * limit, -1);
    const float* box = boxes.data();
    const float* score = scores.data();
    const std::int64_t* label = labels.data();
    {
        WithoutGil without_gil;
        for (std::size_t i = 0; i < batch; ++i)
            nms(box + 4 * i * n, score + i * n, label + i * n, n, threshold, limit, out + i * limit);
    }
    return kept;
}

}  // namespace

void bind_nms(py::module_& m) {
    m.def("nms", &batched_nms, py::arg("boxes"), py::arg("scores"), py::arg("labels"), py::arg("threshold"),
          py::arg("limit"),
          "Greedy class-aware NMS of each image: boxes (B, N, 4), scores (B, N), labels (B, N) -> kept indices\n"
          "(B, min(limit, N)), best first, filled up with -1. A score of -inf is no box.");
}

}  // namespace fastload

#include "roi_align.h"

#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "parallel.h"
#include "taps.h"

namespace fastload {
namespace {

constexpr double canonical_size = 224;  // the side of a square box that is pooled from the level of stride 16
constexpr double farthest = 1 << 24;

// Of a bin and a cell along an axis.
struct Weight {
    int bin, cell;
    float value;
};

// The weights of the bins of one side of a box, in order of bins and then of cells. The points of a bin lie at
// `origin` + parts of `extent`, in cells.
void find_weights(double origin, double extent, int cells, const Regions& regions, std::vector<Weight>& weights) {
    const int size = regions.size;
    const auto points = int64_t(regions.samples ? regions.samples : std::ceil(extent / size));
    const double share = 1. / double(points);
    const double parts = 2. * size * double(points);
    weights.clear();
    for (int bin = 0; bin < size; ++bin) {
        const size_t begin = weights.size();
        // Cells of neighbouring points are merged. Points never go back, so it is one of the last two.
        const auto add = [&](int cell, double weight) {
            for (size_t i = weights.size(); i-- > begin && weights[i].cell >= cell;)
                if (weights[i].cell == cell) {
                    weights[i].value += float(weight);
                    return;
                }
            weights.push_back({bin, cell, float(weight)});
        };
        // Rounded down by more than the error of the division: the points themselves say which are outside.
        const double outside = ((-1 - origin) * parts / extent - 1) / 2 - double(bin * points) - 1;
        const auto first = int64_t(std::clamp(outside, 0., double(points)));
        for (int64_t k = first; k < points; ++k) {
            const double x = origin + extent * double(2 * (bin * points + k) + 1) / parts;
            if (x < -1) continue;
            if (x > cells) break;
            const double inside = std::max(x, 0.);
            const int low = std::min(int(inside), cells - 1);
            const double part = low < cells - 1 ? inside - low : 0;
            add(low, share * (1 - part));
            if (part > 0) add(low + 1, share * part);
        }
    }
}

// Taps grouped by what they contribute to.
struct Axis {
    struct Group {
        size_t target;
        const Tap *begin, *end;
    };
    std::vector<Weight> weights;
    std::vector<Tap> taps;
    std::vector<Group> groups;

    // A group for each bin, of cells that are `step` floats apart.
    void group_by_bin(int size, ptrdiff_t step) {
        take_taps([&](const Weight& weight) { return weight.cell * step; });
        auto weight = weights.begin();
        for (int bin = 0; bin < size; ++bin) {
            const auto begin = weight;
            while (weight != weights.end() && weight->bin == bin) ++weight;
            add_group(bin, begin, weight);
        }
    }

    // A group for each cell that has a weight, of bins that are `step` floats apart.
    void group_by_cell(ptrdiff_t step) {
        for (auto weight = weights.begin(); weight != weights.end(); ++weight)  // few are out of order
            std::rotate(std::upper_bound(weights.begin(), weight, *weight, by_cell), weight, weight + 1);
        take_taps([&](const Weight& weight) { return weight.bin * step; });
        for (auto weight = weights.begin(); weight != weights.end();) {
            const auto begin = weight;
            while (weight != weights.end() && weight->cell == begin->cell) ++weight;
            add_group(begin->cell, begin, weight);
        }
    }

private:
    using Place = std::vector<Weight>::const_iterator;
    static bool by_cell(const Weight& a, const Weight& b) { return a.cell < b.cell; }

    template <class Offset>
    void take_taps(const Offset& offset) {
        taps.clear();
        groups.clear();
        for (const Weight& weight : weights) taps.push_back({offset(weight), weight.value});
    }

    void add_group(int target, Place begin, Place end) {
        const Tap* const first = taps.data();
        groups.push_back({size_t(target), first + (begin - weights.cbegin()), first + (end - weights.cbegin())});
    }
};

// The level that a box belongs to, and its weights there. Memory is reused from box to box.
class Region {
public:
    Axis x, y;
    size_t level = 0;

    // False if there is nothing to pool.
    template <class Float>
    bool find(const std::vector<Level<Float>>& levels, const Regions& regions, size_t index) {
        const float* const box = regions.boxes + 4 * index;
        if (!regions.valid[index]) return false;
        for (int i = 0; i < 4; ++i)
            if (!(std::abs(double(box[i])) <= farthest)) return false;
        if (!(box[2] > box[0] && box[3] > box[1])) return false;
        const double width = double(box[2]) - box[0], height = double(box[3]) - box[1];
        const double scale = std::sqrt(width * height) / canonical_size + 1e-8;
        level = 0;
        while (level + 1 < levels.size() && scale >= levels[level + 1].stride / 16.) ++level;
        const Level<Float>& at = levels[level];
        find_weights(box[0] / double(at.stride) - .5, width / at.stride, int(at.width), regions, x.weights);
        find_weights(box[1] / double(at.stride) - .5, height / at.stride, int(at.height), regions, y.weights);
        return true;
    }
};

}  // namespace

void roi_align(const std::vector<Level<const float>>& levels, const Regions& regions, size_t threads, float* out) {
    constexpr size_t boxes_per_task = 16;
    const auto weighted_sum = kernels().weighted_sum;
    const auto size = size_t(regions.size), channels = regions.channels, boxes = regions.batch * regions.count;
    in_parallel((boxes + boxes_per_task - 1) / boxes_per_task, threads, [&](size_t task) {
        Region region;
        for (size_t i = task * boxes_per_task; i < std::min(boxes, (task + 1) * boxes_per_task); ++i) {
            float* const bins = out + i * size * size * channels;
            if (!region.find(levels, regions, i)) {
                std::fill_n(bins, size * size * channels, 0.f);
                continue;
            }
            const Level<const float>& level = levels[region.level];
            region.x.group_by_bin(regions.size, ptrdiff_t(channels));
            region.y.group_by_bin(regions.size, ptrdiff_t(level.width * channels));
            const float* const image = level.data + i / regions.count * level.height * level.width * channels;
            for (const Axis::Group& row : region.y.groups)
                for (const Axis::Group& column : region.x.groups)
                    weighted_sum(image, {row.begin, row.end, column.begin, column.end}, channels, false,
                                 bins + (row.target * size + column.target) * channels);
        }
    });
}

void roi_align_backward(const std::vector<Level<float>>& levels, const Regions& regions, const float* grad,
                        size_t threads) {
    if (!regions.batch) return;
    // A task is a part of the channels of an image, so that no two tasks write to the same cell and channel.
    const auto weighted_sum = kernels().weighted_sum;
    const size_t size = size_t(regions.size), channels = regions.channels;
    const size_t wanted = regions.batch < 2 * threads ? (2 * threads + regions.batch - 1) / regions.batch : 1;
    const size_t width = std::max<size_t>((channels / wanted + 31) / 32 * 32, 32);
    const size_t parts = (channels + width - 1) / width;
    in_parallel(regions.batch * parts, threads, [&](size_t task) {
        const size_t image = task / parts, first = task % parts * width, part = std::min(width, channels - first);
        Region region;
        for (size_t i = image * regions.count; i < (image + 1) * regions.count; ++i) {
            if (!region.find(levels, regions, i)) continue;
            const Level<float>& level = levels[region.level];
            region.x.group_by_cell(ptrdiff_t(channels));
            region.y.group_by_cell(ptrdiff_t(size * channels));
            float* const cells = level.data + image * level.height * level.width * channels + first;
            const float* const bins = grad + i * size * size * channels + first;
            for (const Axis::Group& row : region.y.groups)
                for (const Axis::Group& column : region.x.groups)
                    weighted_sum(bins, {row.begin, row.end, column.begin, column.end}, part, true,
                                 cells + (row.target * level.width + column.target) * channels);
        }
    });
}

}  // namespace fastload

#include "nms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

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

// The boxes by descending score, equal scores by ascending index, without those that have none.
std::vector<std::size_t> by_score(const float* scores, std::size_t n) {
    std::vector<std::uint64_t> keys;  // the score's bits such that higher scores are smaller numbers, then the index
    for (std::size_t i = 0; i < n; ++i) {
        if (!(scores[i] > -std::numeric_limits<float>::infinity())) continue;
        const float score = scores[i] + 0.f;  // no negative zero
        std::uint32_t bits;
        std::memcpy(&bits, &score, sizeof bits);
        if (!(bits >> 31)) bits = ~bits & 0x7fffffff;
        keys.push_back(std::uint64_t(bits) << 32 | i);
    }
    std::sort(keys.begin(), keys.end());
    std::vector<std::size_t> order;
    for (const std::uint64_t key : keys) order.push_back(std::uint32_t(key));
    return order;
}

// The boxes kept so far.
//
// A box is compared with all of them while they are few. Many are hashed: if the IoU of two boxes is above t, so is that
// of their projections on each axis. So the widths w and v of two boxes differ by less than a factor of 1/t, and their
// left sides by less than min(w, v) (1 - t) / t; heights and tops likewise. The key is the label, classes of the
// logarithms of width and height, and the cell of a raster that suits these classes.
class Winners {
public:
    Winners(double threshold, std::size_t limit) : threshold_(threshold) {
        if (limit <= few || !(threshold > .3)) return;  // below, boxes that differ much still overlap too much
        // Wider than needed: rounding errors are much smaller.
        const double t = std::min(threshold, .98);
        ratio_ = -std::log2(t) * (1 + 1e-6);
        reach_ = (1 - t) / t * (1 + 1e-6);
        std::size_t places = 64;
        while (places < 2 * limit) places *= 2;
        first_.assign(places, none);
    }

    bool suppress(const Box& box) const {
        if (first_.empty() || winners_.size() <= few)
            return std::any_of(winners_.begin(), winners_.end(),
                               [&](const Winner& winner) { return suppresses(winner, box); });
        if (!touches(box)) return false;
        const Side x = side(box.x0, box.x1), y = side(box.y0, box.y1);
        for (int i = 0; i < x.classes; ++i)
            for (int j = 0; j < y.classes; ++j)
                for (std::int64_t column = x.from[i]; column <= x.to[i]; ++column)
                    for (std::int64_t row = y.from[j]; row <= y.to[j]; ++row)
                        if (suppressed_in(hash(box.label, x.first + i, y.first + j, column, row), box)) return true;
        return false;
    }

    void add(const Box& box) {
        winners_.push_back({box, 0, none});
        if (first_.empty() || !touches(box)) return;
        const int x = size_class(std::log2(box.x1 - box.x0)), y = size_class(std::log2(box.y1 - box.y0));
        Winner& winner = winners_.back();
        winner.key = hash(box.label, x, y, cell(box.x0, x), cell(box.y0, y));
        std::uint32_t& first = first_[winner.key & (first_.size() - 1)];
        winner.next = first;
        first = std::uint32_t(winners_.size() - 1);
    }

private:
    static constexpr std::uint32_t none = ~std::uint32_t{0};
    static constexpr std::size_t few = 100;
    // In units of what two boxes may differ by. Above 2, so that a box looks at one or two of each.
    static constexpr double classes_wide = 2.25, cells_wide = 2.25;

    struct Winner {
        Box box;
        std::uint64_t key;
        std::uint32_t next;
    };
    // The places along an axis that a box looks at.
    struct Side {
        int first, classes;
        std::array<std::int64_t, 2> from, to;  // cells of each class
    };

    bool suppresses(const Winner& winner, const Box& box) const {
        return winner.box.label == box.label && iou(winner.box, box) > threshold_;
    }

    // Whether it can overlap anything. In a comparison with any other box, IoU is 0 or not a number.
    static bool touches(const Box& box) { return box.x1 > box.x0 && box.y1 > box.y0 && std::isfinite(box.area); }

    int size_class(double log_size) const { return int(std::floor(log_size / (classes_wide * ratio_))); }
    double largest(int size_class) const { return std::exp2((size_class + 1) * classes_wide * ratio_); }
    std::int64_t cell(double low, int size_class) const {
        return std::int64_t(std::floor(low / (largest(size_class) * reach_ * cells_wide)));
    }

    Side side(double low, double high) const {
        const double size = high - low, log_size = std::log2(size);
        Side found;
        found.first = size_class(log_size - ratio_);
        found.classes = size_class(log_size + ratio_) - found.first + 1;
        for (int i = 0; i < found.classes; ++i) {
            const double reach = std::min(size, largest(found.first + i)) * reach_;
            found.from[i] = cell(low - reach, found.first + i);
            found.to[i] = cell(low + reach, found.first + i);
        }
        return found;
    }

    bool suppressed_in(std::uint64_t key, const Box& box) const {
        for (std::uint32_t i = first_[key & (first_.size() - 1)]; i != none; i = winners_[i].next) {
            const Winner& winner = winners_[i];
            if (winner.key == key && suppresses(winner, box)) return true;
        }
        return false;
    }

    static std::uint64_t hash(std::int64_t label, int x, int y, std::int64_t column, std::int64_t row) {
        std::uint64_t key = std::uint64_t(label);
        const auto classes = (std::uint64_t(x) << 32) + std::uint64_t(y);
        for (const std::uint64_t part : {classes, std::uint64_t(column), std::uint64_t(row)})
            key = (key ^ part) * 0x9e3779b97f4a7c15, key ^= key >> 29;
        return key;
    }

    const double threshold_;
    double ratio_ = 0, reach_ = 0;
    std::vector<std::uint32_t> first_;  // the latest winner of each place; empty if there is no hash
    std::vector<Winner> winners_;
};

}  // namespace

std::size_t nms(const float* boxes, const float* scores, const std::int64_t* labels, std::size_t n, double threshold,
                std::size_t limit, std::int64_t* kept) {
    Winners winners(threshold, std::min(limit, n));
    std::size_t count = 0;
    for (const std::size_t i : by_score(scores, n)) {
        if (count == limit) break;
        const float* p = boxes + 4 * i;
        const Box box{p[0], p[1], p[2], p[3], (double(p[2]) - p[0]) * (double(p[3]) - p[1]), labels[i]};
        if (winners.suppress(box)) continue;
        kept[count++] = std::int64_t(i);
        winners.add(box);
    }
    return count;
}

}  // namespace fastload

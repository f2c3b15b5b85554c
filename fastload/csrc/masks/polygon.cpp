#include "polygon.h"

#include <cmath>

namespace fastload {
namespace {

constexpr int parts = 5;           // of a pixel
constexpr int before_center = 2;   // the last fifth before a pixel's center
constexpr double farthest = 4e8;   // pixels; pycocotools' integers hold no more

struct Corner {
    int64_t x, y;  // fifths of a pixel
};

int64_t in_parts(double pixels) {
    return int64_t(parts * std::clamp(pixels, -farthest, farthest) + .5);  // rounded towards 0 if negative, as there
}

int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t ceil_divide(int64_t a, int64_t b) { return -floor_divide(-a, b); }

// The first row whose center is at or below a place in fifths of a pixel.
int64_t row_of(int64_t y) { return y <= before_center ? 0 : ceil_divide(y - before_center, parts); }

class Edge {
public:
    Edge(Corner from, Corner to) : from_(from), dx_(to.x - from.x), dy_(to.y - from.y) {
        wide_ = std::abs(dx_) >= std::abs(dy_);
        if (wide_ ? dx_ < 0 : dy_ < 0) from_ = to, dx_ = -dx_, dy_ = -dy_;
        const double slope_of = double(wide_ ? dy_ : dx_), along = double(wide_ ? dx_ : dy_);
        slope_ = slope_of / along;
        left_ = std::min(from_.x, from_.x + dx_);
        right_ = std::max(from_.x, from_.x + dx_);
    }

    // Toggles the columns of `bits` whose centers the edge passes.
    void toggle(BitWindow& bits) const {
        const Window& window = bits.window();
        const int64_t first = std::max<int64_t>(window.x0, ceil_divide(left_ - before_center, parts));
        const int64_t last = std::min<int64_t>(window.x1 - 1, floor_divide(right_ - before_center - 1, parts));
        for (int64_t k = first; k <= last; ++k) bits.toggle(int(k), row_of(upper_at(parts * k + before_center)));
    }

private:
    // The upper one of the places in y of the steps at `x` and x + 1.
    int64_t upper_at(int64_t x) const {
        if (wide_) return place(from_.y, x - from_.x + (slope_ < 0));
        // The first step on the other side. It is computed, then corrected for rounding.
        const double exact = (double(x) + .5 - double(from_.x)) / slope_;
        int64_t step = std::clamp(int64_t(std::ceil(exact)), int64_t{1}, dy_);
        const auto passed = [&](int64_t t) { return slope_ > 0 ? place(from_.x, t) > x : place(from_.x, t) <= x; };
        while (step < dy_ && !passed(step)) ++step;
        while (step > 1 && passed(step - 1)) --step;
        return from_.y + step - 1;
    }

    // The place along the shorter side after `step` steps. Keep the order of operations: it decides the rounding.
    int64_t place(int64_t start, int64_t step) const { return int64_t(double(start) + slope_ * double(step) + .5); }

    Corner from_;
    int64_t dx_, dy_;
    bool wide_;
    double slope_;
    int64_t left_, right_;
};

}  // namespace

bool fill_polygon(const std::vector<Vertex>& corners, const Window& limit, BitWindow& bits) {
    if (corners.size() < 3) return false;
    double left = corners[0].x, right = left, top = corners[0].y, bottom = top;
    bool finite = true;
    for (const Vertex& corner : corners) {
        finite &= std::isfinite(corner.x) && std::isfinite(corner.y);
        left = std::min(left, corner.x), right = std::max(right, corner.x);
        top = std::min(top, corner.y), bottom = std::max(bottom, corner.y);
    }
    if (!finite) return false;
    const auto to_pixel = [](double place) { return int(std::floor(std::clamp(place, -1e6, 1e6))); };
    // One pixel more, since corners are rounded.
    const Window window =
        Window{to_pixel(left) - 1, to_pixel(top) - 1, to_pixel(right) + 2, to_pixel(bottom) + 2}.within(limit);
    if (window.empty()) return false;
    bits.open(window);
    Corner last{in_parts(corners.back().x), in_parts(corners.back().y)};
    for (const Vertex& corner : corners) {
        const Corner next{in_parts(corner.x), in_parts(corner.y)};
        if (next.x != last.x) Edge(last, next).toggle(bits);
        last = next;
    }
    bits.spread();
    return true;
}

}  // namespace fastload

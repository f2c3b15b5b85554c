// The geometry of a plan's rows. Results equal those of fastload/plan/geometry.py bit for bit: keep the order of
// operations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace fastload {

struct Point {
    float x, y;
};

struct Box {
    float x0, y0, x1, y1;

    float width() const { return x1 - x0; }
    float height() const { return y1 - y0; }
    float area() const { return width() * height(); }
    Box clipped_to(const Box& limit) const {
        return {std::clamp(x0, limit.x0, limit.x1), std::clamp(y0, limit.y0, limit.y1),
                std::clamp(x1, limit.x0, limit.x1), std::clamp(y1, limit.y0, limit.y1)};
    }
    bool differs_from(const Box& other, float tolerance) const {
        return std::abs(x0 - other.x0) > tolerance || std::abs(x1 - other.x1) > tolerance ||
               std::abs(y0 - other.y0) > tolerance || std::abs(y1 - other.y1) > tolerance;
    }
};

// x, y, w, h as a box.
template <class T>
Box box_of(const T* extent) {
    const float x = float(extent[0]), y = float(extent[1]);
    return {x, y, x + float(extent[2]), y + float(extent[3])};
}

// (x, y) -> m[.][0] * x + m[.][1] * y + m[.][2]
struct Affine {
    float m[2][3];

    // Maps `crop` of the source to `clip` (both x, y, w, h), mirrored left to right if `flip` is set.
    static Affine aligned(const float* crop, const int32_t* clip, bool flip) {
        Affine map{};
        for (int axis = 0; axis < 2; ++axis) {
            float& scale = map.m[axis][axis];
            scale = float(double(clip[axis + 2]) / crop[axis + 2]);
            if (axis == 0 && flip) scale = -scale;
            map.m[axis][2] = float(double(clip[axis]) - double(crop[axis] * scale));
        }
        if (flip) map.m[0][2] = float(double(map.m[0][2]) + clip[2]);
        return map;
    }

    float determinant() const { return m[0][0] * m[1][1] - m[0][1] * m[1][0]; }

    Point map(Point p) const {
        return {m[0][0] * p.x + m[0][1] * p.y + m[0][2], m[1][0] * p.x + m[1][1] * p.y + m[1][2]};
    }
    Point unmap(Point p) const {
        const Point moved{p.x - m[0][2], p.y - m[1][2]};
        return {(moved.x * m[1][1] - moved.y * m[0][1]) / determinant(),
                (moved.y * m[0][0] - moved.x * m[1][0]) / determinant()};
    }
    // The smallest box around the four mapped corners.
    Box map(const Box& box) const { return bounds(box, [this](Point p) { return map(p); }); }
    Box unmap(const Box& box) const { return bounds(box, [this](Point p) { return unmap(p); }); }

private:
    template <class Map>
    static Box bounds(const Box& box, Map map) {
        const Point p[4] = {map({box.x0, box.y0}), map({box.x1, box.y0}), map({box.x0, box.y1}), map({box.x1, box.y1})};
        const auto [left, right] = std::minmax({p[0].x, p[1].x, p[2].x, p[3].x});
        const auto [top, bottom] = std::minmax({p[0].y, p[1].y, p[2].y, p[3].y});
        return {left, top, right, bottom};
    }
};

}  // namespace fastload

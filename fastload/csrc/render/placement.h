// A row of a plan, as the renderer takes it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "color_change.h"
#include "filter.h"

namespace fastload {

enum class Kind { source, fill, adjust };  // what a row draws: a record, a color, or what is under it with other colors

constexpr int opaque = 256;

// See fastload/plan/batch_plan.py.
struct Placement {
    float crop[4];    // x, y, w, h in source pixels
    int32_t clip[4];  // x, y, w, h on the canvas
    bool flip;
    float color[3][4];
    Filter filter = Filter::bilinear;
    Kind kind = Kind::source;
    bool cutout = false;  // only the masks of its objects are drawn
    bool warped = false;
    float warp[2][3] = {};  // from the source to the canvas; if it is `warped`
    int alpha = opacity_of(1);
    int32_t layer = 0;
    // Further changes of an ADJUST row, after `color`.
    enum class Table { none, given, autocontrast, equalize };
    bool changes_hsv = false;
    float hsv[5] = {};
    Table table = Table::none;
    std::shared_ptr<const LevelTable> levels = nullptr;  // of a given table

    static constexpr int opacity_of(float alpha) { return int(alpha * opaque + .5f); }
    // Whether its table depends on what is under it.
    bool computes_table() const { return table == Table::autocontrast || table == Table::equalize; }
    // Whether it is drawn over the canvas without regard to what is there.
    bool is_plain() const { return kind == Kind::source && !warped && !cutout && alpha == opaque && layer == 0; }
};

// Pixels of a line of the canvas.
struct Span {
    int begin, end;

    bool empty() const { return begin >= end; }
    int size() const { return end - begin; }
    Span within(const Span& other) const { return {std::max(begin, other.begin), std::min(end, other.end)}; }
};

}  // namespace fastload

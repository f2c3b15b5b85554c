#include "visible_part.h"

#include "warped.h"

namespace fastload {

void VisibleParts::open(const MaskSize& size, const Placement* rows, size_t count) {
    size_ = size;
    rows_ = rows;
    count_ = count;
    spans_.assign(count, {});
}

void VisibleParts::go_to(size_t row) {
    window_ = window_of(row);
    part_.reset();
    if (window_.empty()) return;
    if (rows_[row].warped) keep(row, true);
    if (rows_[row].layer) keep(ground_of(row), true);
    for (size_t later = row + 1; later < count_; ++later)
        if (covers(later, row) && !window_.within(window_of(later)).empty()) keep(later, false);
}

Window VisibleParts::window_of(size_t row) const {
    const int32_t* const clip = rows_[row].clip;
    const Window on_mask{size_.from(clip[0]), size_.from(clip[1]), size_.from(clip[0] + clip[2]), size_.from(clip[1] + clip[3])};
    return on_mask.within({0, 0, size_.width, size_.height});
}

// A layer covers as its ground does; its further rows cover only one another.
bool VisibleParts::covers(size_t row, size_t earlier) const {
    const Placement& placement = rows_[row];
    if (placement.alpha < opaque || placement.kind == Kind::adjust || placement.cutout) return false;
    return placement.layer == 0 || ground_of(row) == row || ground_of(row) <= earlier;
}

size_t VisibleParts::ground_of(size_t row) const {
    while (row > 0 && rows_[row - 1].layer == rows_[row].layer) --row;
    return row;
}

Span VisibleParts::span(size_t row, int y) {
    const Placement& placement = rows_[row];
    if (!placement.warped) {
        const Window window = window_of(row);
        return y < window.y0 || y >= window.y1 ? Span{0, 0} : Span{window.x0, window.x1};
    }
    std::vector<Span>& spans = spans_[row];
    if (spans.empty()) {
        WarpedCrop crop;
        crop.open(placement);
        spans.resize(size_t(size_.height));
        for (int line = 0; line < size_.height; ++line) {
            const Span shown = crop.span(size_.center(line));
            spans[size_t(line)] = {size_.from(shown.begin), size_.from(shown.end)};
        }
    }
    return spans[size_t(y)];
}

void VisibleParts::keep(size_t row, bool inside) {
    if (!part_) {
        part_.emplace();
        part_->open(window_);
        for (int y = window_.y0; y < window_.y1; ++y) part_->fill(y, window_.x0, window_.x1, true);
    }
    for (int y = window_.y0; y < window_.y1; ++y) {
        const Span kept = span(row, y);
        if (!inside) {
            part_->fill(y, kept.begin, kept.end, false);
        } else if (kept.empty()) {
            part_->fill(y, window_.x0, window_.x1, false);
        } else {
            part_->fill(y, window_.x0, kept.begin, false);
            part_->fill(y, kept.end, window_.x1, false);
        }
    }
}

}  // namespace fastload

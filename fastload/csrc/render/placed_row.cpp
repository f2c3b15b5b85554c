#include "placed_row.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fastload {

void fill_pixels(uint8_t* line, Span span, const uint8_t fill[3]) {
    if (span.empty()) return;
    const size_t size = size_t(3) * size_t(span.size());
    uint8_t* const first = line + 3 * size_t(span.begin);
    std::copy_n(fill, 3, first);
    // Doubles what is there: copying pixel by pixel would take as long as all decoding.
    for (size_t done = 3; done < size; done *= 2) std::memcpy(first + done, first, std::min(done, size - done));
}

void PlacedRow::open(const Placement& placement) {
    placement_ = placement;
    if (placement.warped) crop_.open(placement);
    switch (placement.kind) {
        case Kind::source:
            if (placement.warped && needs_source()) warped_.open(placement, crop_);
            break;
        case Kind::fill:
            for (int c = 0; c < 3; ++c)
                fill_[c] = uint8_t(std::floor(std::clamp(double(placement.color[c][3]), 0., 255.) + .5));
            break;
        case Kind::adjust:
            adjustment_.open(placement);
    }
}

View PlacedRow::view() const {
    if (placement_.warped) return warped_.view();
    const float* const crop = placement_.crop;
    return {crop[0], crop[1], crop[2], crop[3], placement_.clip[2],
            placement_.clip[3], placement_.flip, placement_.filter};
}

void PlacedRow::set_source(const Planes& planes, TableCache& tables) {
    if (placement_.warped) return warped_.set_source(planes, placement_.color, tables);
    picture_.open(planes, view(), placement_.color, tables);
}

void PlacedRow::count(Span span, const uint8_t* line, Histogram& histogram) {
    const size_t pixels = size_t(span.size());
    uint8_t* const changed = memory_.ensure(3 * pixels);
    std::memcpy(changed, line + 3 * size_t(span.begin), 3 * pixels);
    adjustment_.apply(changed, pixels);
    count_levels(changed, pixels, histogram);
}

Span PlacedRow::span(int y) const {
    if (placement_.warped) return crop_.span(y);
    const int32_t* clip = placement_.clip;
    return y < clip[1] || y >= clip[1] + clip[3] ? Span{0, 0} : Span{clip[0], clip[0] + clip[2]};
}

// Copies the pixels of a span whose bits are set.
static void copy_set(const uint8_t* bits, Span span, const uint8_t* from, uint8_t* to) {
    for (int x = span.begin; x < span.end; ++x, from += 3, to += 3)
        if (bits[x / 8] >> x % 8 & 1) std::memcpy(to, from, 3);
}

void PlacedRow::draw(int y, Span span, uint8_t* line) {
    const int32_t* clip = placement_.clip;
    const bool aligned_source = placement_.kind == Kind::source && !placement_.warped;
    // An axis-aligned source draws its whole clip.
    const Span drawn = aligned_source ? Span{clip[0], clip[0] + clip[2]} : span;
    uint8_t* const under = line + 3 * size_t(span.begin);
    const size_t size = size_t(3) * span.size();
    const bool aside = placement_.alpha < opaque || placement_.cutout || drawn.size() > span.size();
    uint8_t* const pixels = aside ? memory_.ensure(size_t(3) * drawn.size()) : under;
    switch (placement_.kind) {
        case Kind::source:
            placement_.warped ? warped_.draw(y, span, pixels) : void(draw_plain(y, pixels, nullptr));
            break;
        case Kind::fill:
            fill_pixels(pixels, {0, span.size()}, fill_);
            break;
        case Kind::adjust:
            if (aside) std::memcpy(pixels, under, size);
            adjustment_.apply(pixels, size_t(span.size()));
    }
    if (!aside) return;
    const uint8_t* const over = pixels + 3 * size_t(span.begin - drawn.begin);
    if (placement_.cutout)
        copy_set(cutout_ + size_t(y) * cutout_row_bytes_, span, over, under);
    else
        kernels_->mix(over, placement_.alpha, size, under);
}

}  // namespace fastload

#include "mask_batch.h"

#include <algorithm>
#include <cstring>

#include "geometry.h"

namespace fastload {
namespace {

// The map of a row from pixels of the stored image to pixels of a mask.
PreciseAffine map_of(const Placement& placement, int stride) {
    const Affine map = Affine::aligned(placement.crop, placement.clip, placement.flip);
    PreciseAffine precise{};
    for (int axis = 0; axis < 2; ++axis)
        for (int k = 0; k < 3; ++k)
            precise.m[axis][k] = double(placement.warped ? placement.warp[axis][k] : map.m[axis][k]) / stride;
    return precise;
}

}  // namespace

MaskBatch::MaskBatch(std::shared_ptr<const MaskShapes> shapes, const MaskSize& size, std::vector<Shown> shown,
                     std::vector<Source> sources, const std::vector<int>& first_row, bool measured)
    : shapes_(std::move(shapes)), size_(size), shown_(std::move(shown)), sources_(std::move(sources)),
      first_row_(first_row), measured_(measured) {
    for (int row : first_row_) {
        const auto at = std::partition_point(shown_.begin(), shown_.end(), [row](const Shown& one) { return one.row < row; });
        first_shown_.push_back(size_t(at - shown_.begin()));
    }
}

void MaskBatch::draw(int slot, const Placement* placements, uint8_t* out, Workspace& workspace) const {
    const size_t first = first_shown_[size_t(slot)], end = first_shown_[size_t(slot) + 1];
    if (first == end) return;
    const int first_row = first_row_[size_t(slot)];
    VisibleParts& visible = workspace.visible;
    visible.open(size_, placements + first_row, size_t(first_row_[size_t(slot) + 1] - first_row));
    std::memset(out + first * mask_bytes(), 0, (end - first) * mask_bytes());
    int last = -1;
    for (size_t i = first; i < end; ++i) {
        const Shown& shown = shown_[i];
        if (shown.row != last) visible.go_to(size_t(shown.row - first_row));
        last = shown.row;
        uint8_t* const mask = out + i * mask_bytes();
        Window drawn{};
        try {
            drawn = draw(shown, placements[shown.row], mask, workspace);
        } catch (const std::runtime_error& error) {
            const int64_t number = shapes_->number(size_t(shown.object), size_t(sources_[size_t(shown.row)].index));
            throw MaskError(shown.row, "box " + std::to_string(number) + " has no mask: " + error.what());
        }
        visible.hide_in(mask, drawn);
        if (!measured_) continue;
        const MaskExtent extent = measure(mask, drawn);
        std::memcpy(out + extents_at() + i * sizeof extent, &extent, sizeof extent);
    }
}

Window MaskBatch::draw(const Shown& shown, const Placement& placement, uint8_t* mask, Workspace& workspace) const {
    const Window& window = workspace.visible.window();
    if (window.empty()) return {};
    const auto object = size_t(shown.object);
    const Source& source = sources_[size_t(shown.row)];
    const int32_t* const annotated = shapes_->annotated(size_t(source.index));
    PreciseAffine map = map_of(placement, size_.stride);
    const auto& m = map.m;
    Window drawn{};
    const auto add = [&] {
        workspace.bits.add_to(mask, row_bytes());
        drawn = drawn.with(workspace.bits.window());
    };
    const MaskShapes::Lists::Range rings = shapes_->rings(object);
    for (size_t ring = rings.begin; ring < rings.end; ++ring) {
        shapes_->read(ring, workspace.points);
        for (Vertex& point : workspace.points)
            point = {m[0][0] * point.x + m[0][1] * point.y + m[0][2], m[1][0] * point.x + m[1][1] * point.y + m[1][2]};
        if (fill_polygon(workspace.points, window, workspace.bits)) add();
    }
    if (!rings.empty()) return drawn;
    const MaskShapes::Bytes bytes = shapes_->run_lengths(object);
    if (!bytes.size) return drawn;
    workspace.run_lengths.open(bytes.data, bytes.size, annotated[0], annotated[1]);
    for (int k = 0; k < 2; ++k)
        for (double* line : {map.m[0], map.m[1]}) line[k] *= double(source.size[k]) / annotated[k];
    if (workspace.run_lengths.draw(map, window, workspace.bits)) add();
    return drawn;
}

MaskExtent MaskBatch::measure(const uint8_t* mask, const Window& window) const {
    MaskExtent extent{size_.width, -1, 0, 0, 0};
    const size_t bytes = row_bytes();
    for (int y = window.y0; y < window.y1; ++y) {
        int first = -1, last = 0;  // words with pixels
        uint64_t first_word = 0, last_word = 0;
        for (int k = window.x0 / 64; 64 * k < window.x1; ++k) {
            uint64_t word = 0;
            const size_t at = 8 * size_t(k), size = bytes - at;
            const uint8_t* const from = mask + size_t(y) * bytes + at;
            size < 8 ? std::memcpy(&word, from, size) : std::memcpy(&word, from, 8);
            if (!word) continue;
            extent.area += __builtin_popcountll(word);
            if (first < 0) first = k, first_word = word;
            last = k, last_word = word;
        }
        if (first < 0) continue;
        extent.x0 = std::min<int64_t>(extent.x0, 64 * first + __builtin_ctzll(first_word));
        extent.x1 = std::max<int64_t>(extent.x1, 64 * last + 64 - __builtin_clzll(last_word));
        if (extent.y0 < 0) extent.y0 = y;
        extent.y1 = y + 1;
    }
    return extent.area ? extent : MaskExtent{};
}

}  // namespace fastload

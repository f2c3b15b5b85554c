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
    const int first_row = first_row_[size_t(slot)];
    VisibleParts& visible = workspace.visible;
    visible.open(size_, placements + first_row, size_t(first_row_[size_t(slot) + 1] - first_row));
    const size_t first = first_shown_[size_t(slot)], end = first_shown_[size_t(slot) + 1];
    std::memset(out + first * mask_bytes(), 0, (end - first) * mask_bytes());
    int last = -1;
    for (size_t i = first; i < end; ++i) {
        const Shown& shown = shown_[i];
        if (shown.row != last) visible.go_to(size_t(shown.row - first_row));
        last = shown.row;
        uint8_t* const mask = out + i * mask_bytes();
        try {
            draw(shown, placements[shown.row], mask, workspace);
        } catch (const std::runtime_error& error) {
            const int64_t number = shapes_->number(size_t(shown.object), size_t(sources_[size_t(shown.row)].index));
            throw MaskError(shown.row, "box " + std::to_string(number) + " has no mask: " + error.what());
        }
        visible.hide_in(mask);
        if (!measured_) continue;
        const MaskExtent extent = measure(mask, visible.window());
        std::memcpy(out + extents_at() + i * sizeof extent, &extent, sizeof extent);
    }
}

void MaskBatch::draw(const Shown& shown, const Placement& placement, uint8_t* mask, Workspace& workspace) const {
    const Window& window = workspace.visible.window();
    if (window.empty()) return;
    const auto object = size_t(shown.object);
    const Source& source = sources_[size_t(shown.row)];
    const int32_t* const annotated = shapes_->annotated(size_t(source.index));
    PreciseAffine map = map_of(placement, size_.stride);
    const auto& m = map.m;
    const MaskShapes::Lists::Range rings = shapes_->rings(object);
    for (size_t ring = rings.begin; ring < rings.end; ++ring) {
        shapes_->read(ring, workspace.points);
        for (Vertex& point : workspace.points)
            point = {m[0][0] * point.x + m[0][1] * point.y + m[0][2], m[1][0] * point.x + m[1][1] * point.y + m[1][2]};
        if (fill_polygon(workspace.points, window, workspace.bits)) workspace.bits.add_to(mask, row_bytes());
    }
    if (!rings.empty()) return;
    const MaskShapes::Bytes bytes = shapes_->run_lengths(object);
    if (!bytes.size) return;
    workspace.run_lengths.open(bytes.data, bytes.size, annotated[0], annotated[1]);
    for (int k = 0; k < 2; ++k)
        for (double* line : {map.m[0], map.m[1]}) line[k] *= double(source.size[k]) / annotated[k];
    if (workspace.run_lengths.draw(map, window, workspace.bits)) workspace.bits.add_to(mask, row_bytes());
}

MaskExtent MaskBatch::measure(const uint8_t* mask, const Window& window) const {
    MaskExtent extent{INT32_MAX, -1, 0, 0, 0};
    std::vector<uint8_t> columns;  // the union of all rows
    const size_t bytes = row_bytes();
    const size_t begin = size_t(window.x0) / 64 * 8, end = std::min(bytes, (size_t(window.x1) + 63) / 64 * 8);
    columns.assign(bytes, 0);
    for (int y = window.y0; y < window.y1; ++y) {
        const uint8_t* const row = mask + size_t(y) * bytes;
        uint64_t any = 0;
        for (size_t at = begin; at < end; at += 8) {
            uint64_t word = 0, seen = 0;
            const size_t size = std::min(end - at, size_t{8});
            std::memcpy(&word, row + at, size);
            if (!word) continue;
            any |= word;
            extent.area += __builtin_popcountll(word);
            std::memcpy(&seen, &columns[at], size);
            seen |= word;
            std::memcpy(&columns[at], &seen, size);
        }
        if (!any) continue;
        if (extent.y0 < 0) extent.y0 = y;
        extent.y1 = y + 1;
    }
    if (!extent.area) return {};
    for (int x = 0; x < size_.width; ++x)
        if (columns[size_t(x) / 8] >> x % 8 & 1) {
            extent.x0 = std::min<int64_t>(extent.x0, x);
            extent.x1 = x + 1;
        }
    return extent;
}

}  // namespace fastload

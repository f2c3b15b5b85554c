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
      first_row_(first_row), measured_(measured) {}

std::pair<size_t, size_t> MaskBatch::shown_by(int first, int end) const {
    const auto from = [this](int row) {
        return size_t(std::partition_point(shown_.begin(), shown_.end(), [row](const Shown& one) { return one.row < row; }) -
                      shown_.begin());
    };
    return {from(first), from(end)};
}

void MaskBatch::draw(int slot, const Placement* placements, uint8_t* out, Workspace& workspace) const {
    const int first_row = first_row_[size_t(slot)], end_row = first_row_[size_t(slot) + 1];
    const auto [first, end] = shown_by(first_row, end_row);
    if (first == end) return;
    VisibleParts& visible = workspace.visible;
    visible.open(size_, placements + first_row, size_t(end_row - first_row));
    std::memset(out + first * mask_bytes(), 0, (end - first) * mask_bytes());
    workspace.windows.clear();
    int last = -1;
    for (size_t i = first; i < end; ++i) {
        const Shown& shown = shown_[i];
        if (shown.row != last) visible.go_to(size_t(shown.row - first_row));
        last = shown.row;
        workspace.windows.push_back(draw(shown, placements[shown.row], size_, out + i * mask_bytes(), workspace));
    }
    cover(slot, placements, out, workspace);
    if (!measured_) return;
    for (size_t i = first; i < end; ++i) {
        const MaskExtent extent = measure(out + i * mask_bytes(), workspace.windows[i - first]);
        std::memcpy(out + extents_at() + i * sizeof extent, &extent, sizeof extent);
    }
}

void MaskBatch::draw_cutout(int row, const Placement& placement, int width, int height, uint8_t* out,
                            Workspace& workspace) const {
    const MaskSize size{width, height, 1};
    const size_t bytes = mask_row_bytes(width) * size_t(height);
    workspace.visible.open(size, &placement, 1);
    workspace.visible.go_to(0);
    std::memset(out, 0, bytes);
    const auto [first, end] = shown_by(row, row + 1);
    for (size_t i = first; i < end; ++i) {
        workspace.cutout.assign(bytes, 0);
        draw(shown_[i], placement, size, workspace.cutout.data(), workspace);
        for (size_t k = 0; k < bytes; ++k) out[k] |= workspace.cutout[k];
    }
}

void MaskBatch::cover(int slot, const Placement* placements, uint8_t* out, Workspace& workspace) const {
    const int first_row = first_row_[size_t(slot)], end_row = first_row_[size_t(slot) + 1];
    for (int row = first_row + 1; row < end_row; ++row) {
        if (!placements[row].cutout) continue;
        workspace.cutout.assign(mask_bytes(), 0);
        const auto [first, end] = shown_by(row, row + 1);
        for (size_t i = first; i < end; ++i)
            for (size_t k = 0; k < mask_bytes(); ++k) workspace.cutout[k] |= out[i * mask_bytes() + k];
        for (size_t i = shown_by(first_row, row).first; i < first; ++i)
            for (size_t k = 0; k < mask_bytes(); ++k) out[i * mask_bytes() + k] &= uint8_t(~workspace.cutout[k]);
    }
}

Window MaskBatch::draw(const Shown& shown, const Placement& placement, const MaskSize& size, uint8_t* mask,
                     Workspace& workspace) const try {
    const Window& window = workspace.visible.window();
    if (window.empty()) return {};
    const auto object = size_t(shown.object);
    const size_t row_bytes = mask_row_bytes(size.width);
    const Source& source = sources_[size_t(shown.row)];
    const int32_t* const annotated = shapes_->annotated(size_t(source.index));
    PreciseAffine map = map_of(placement, size.stride);
    const auto& m = map.m;
    Window drawn{};
    const auto add = [&] {
        workspace.bits.add_to(mask, row_bytes);
        drawn = drawn.with(workspace.bits.window());
    };
    const MaskShapes::Lists::Range rings = shapes_->rings(object);
    for (size_t ring = rings.begin; ring < rings.end; ++ring) {
        shapes_->read(ring, workspace.points);
        for (Vertex& point : workspace.points)
            point = {m[0][0] * point.x + m[0][1] * point.y + m[0][2], m[1][0] * point.x + m[1][1] * point.y + m[1][2]};
        if (fill_polygon(workspace.points, window, workspace.bits)) add();
    }
    const MaskShapes::Bytes bytes = rings.empty() ? shapes_->run_lengths(object) : MaskShapes::Bytes{};
    if (bytes.size) {
        workspace.run_lengths.open(bytes.data, bytes.size, annotated[0], annotated[1]);
        for (int k = 0; k < 2; ++k)
            for (double* line : {map.m[0], map.m[1]}) line[k] *= double(source.size[k]) / annotated[k];
        if (workspace.run_lengths.draw(map, window, workspace.bits)) add();
    }
    workspace.visible.hide_in(mask, drawn);
    return drawn;
} catch (const std::runtime_error& error) {
    const int64_t number = shapes_->number(size_t(shown.object), size_t(sources_[size_t(shown.row)].index));
    throw MaskError(shown.row, "box " + std::to_string(number) + " has no mask: " + error.what());
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

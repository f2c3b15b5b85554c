// The masks of batches, for engines that draw images only and for single images.
#include "bindings.h"
#include "mask_plan.h"
#include "tensor.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

using Offsets = Array<int64_t>;

MaskShapes::Lists lists_of(const Offsets& offsets) {
    require(offsets.size() >= 1, "the offsets of masks are empty");
    return {offsets.data(), size_t(offsets.size() - 1)};
}

std::shared_ptr<MaskShapes> shapes_of(const Offsets& box_offsets, const Array<int32_t>& source_sizes,
                                      const std::optional<std::tuple<Array<float>, Offsets, Offsets>>& polygons,
                                      const std::optional<std::tuple<Array<uint8_t>, Offsets>>& run_lengths) {
    MaskShapes::Arrays arrays;
    require(source_sizes.size() == 2 * (box_offsets.size() - 1), "masks need a size for each image");
    arrays.first_objects = box_offsets.data();
    arrays.annotated = source_sizes.data();
    arrays.images = size_t(box_offsets.size() - 1);
    if (polygons) {
        const auto& [points, rings, ring_points] = *polygons;
        arrays.points = points.data();
        arrays.points_count = size_t(points.size() / 2);
        arrays.rings = lists_of(rings);
        arrays.ring_points = lists_of(ring_points);
    }
    if (run_lengths) {
        const auto& [bytes, offsets] = *run_lengths;
        arrays.bytes = bytes.data();
        arrays.bytes_count = size_t(bytes.size());
        arrays.objects_bytes = lists_of(offsets);
    }
    return std::make_shared<MaskShapes>(
        arrays, owned(py::make_tuple(box_offsets, source_sizes, py::cast(polygons), py::cast(run_lengths))));
}

py::tuple draw_masks(py::handle batch_plan, py::handle masks) {
    const PlanView plan(batch_plan);
    const MaskPlan mask_plan(masks);
    require(plan.slots >= 1, "the plan is empty");
    std::shared_ptr<const MaskBatch> batch;
    std::shared_ptr<std::vector<uint8_t>> memory;
    std::vector<Failure> failures;
    {
        WithoutGil without_gil;
        plan.check_slots();
        std::vector<int> first_row(size_t(plan.slots) + 1, 0);
        std::vector<Placement> placements;
        for (py::ssize_t i = 0; i < plan.rows; ++i) {
            placements.push_back(plan.placement(i));
            ++first_row[size_t(plan.slot.data()[i]) + 1];
        }
        for (size_t s = 1; s < first_row.size(); ++s) first_row[s] += first_row[s - 1];
        size_t next = 0;
        batch = mask_plan.batch(plan, 0, first_row, plan.canvases.data()[0], plan.canvases.data()[1], next);
        memory = std::make_shared<std::vector<uint8_t>>(batch->bytes());
        MaskBatch::Workspace workspace;
        for (py::ssize_t slot = 0; slot < plan.slots; ++slot) try {
                batch->draw(int(slot), placements.data(), memory->data(), workspace);
            } catch (const MaskError& error) {
                failures.push_back({error.row, error.what()});
            }
    }
    return py::make_tuple(mask_tensors(*batch, memory->data(), memory), to_dict(failures));
}

}  // namespace

std::shared_ptr<const MaskBatch> MaskPlan::batch(const PlanView& plan, py::ssize_t first,
                                                 const std::vector<int>& first_row, int width, int height,
                                                 size_t& next) const {
    std::vector<MaskBatch::Shown> shown;
    const auto count = size_t(rows_.size());
    const py::ssize_t end = first + first_row.back();
    for (; next < count; ++next) {
        const int64_t object = objects_.data()[next], row = rows_.data()[next];
        if (row < 0) continue;  // padding
        if (row >= end) break;
        require(object >= 0 && row >= first && plan.index.data()[row] >= 0 && (shown.empty() || row - first >= shown.back().row),
                "the objects of masks must be sorted by row, and their rows must have sources");
        shown.push_back({object, int(row - first)});
    }
    std::vector<MaskBatch::Source> sources;
    for (py::ssize_t row = first; row < end; ++row)
        sources.push_back({plan.index.data()[row], {plan.source.data()[2 * row], plan.source.data()[2 * row + 1]}});
    return std::make_shared<MaskBatch>(shapes_, MaskSize::of(width, height, stride_), std::move(shown),
                                       std::move(sources), first_row, measured_);
}

py::tuple mask_tensors(const MaskBatch& masks, uint8_t* data, const std::shared_ptr<void>& memory) {
    const auto count = int64_t(masks.count()), height = int64_t(masks.size().height), bytes = int64_t(masks.row_bytes());
    py::object extents = py::none();
    if (masks.measured())
        extents = to_capsule<2>(data + masks.extents_at(), element_type<int64_t>, {count, 5}, {5, 1}, memory);
    return py::make_tuple(
        to_capsule<3>(data, element_type<uint8_t>, {count, height, bytes}, {height * bytes, bytes, 1}, memory), extents);
}

py::dict to_dict(const std::vector<Failure>& failures) {
    py::dict reasons;
    for (const Failure& failure : failures) reasons[py::int_(failure.row)] = failure.reason;
    return reasons;
}

void bind_masks(py::module_& m) {
    py::class_<MaskShapes, std::shared_ptr<MaskShapes>>(m, "MaskShapes", "The polygons and run lengths of a cache's objects.")
        .def(py::init(&shapes_of), py::arg("box_offsets").noconvert(), py::arg("source_sizes").noconvert(),
             py::arg("polygons"), py::arg("run_lengths"),
             "`polygons` are the values, the offsets of objects and those of rings of the column, `run_lengths` the "
             "bytes and the offsets of objects; None if the cache has no such column.");
    m.def("draw_masks", &draw_masks, py::arg("plan"), py::arg("masks"),
          "The masks of a placed plan of one batch, as a `MaskPlan` describes them. Returns ((bits, extents), {row: "
          "reason}): DLPack capsules of (M, H, ceil(W / 8)) uint8 and, if they are measured, (M, 5) int64 x0, y0, x1, "
          "y1, area; and why the masks of rows cannot be drawn.");
}

}  // namespace fastload

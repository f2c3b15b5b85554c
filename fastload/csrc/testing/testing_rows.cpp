// A row of a plan alone, drawn from what is decoded of its record.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "bindings.h"
#include "record.h"
#include "render.h"
#include "testing.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

constexpr float identity[3][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}};

Placement placement_of(const Array<float>& crop, const Array<int32_t>& clip, bool flip, int filter,
                       const std::optional<Array<float>>& warp) {
    require(crop.size() == 4 && clip.size() == 4 && (!warp || warp->size() == 6), "crop and clip are (4), warp (2, 3)");
    require(filter >= 0 && filter < filter_kinds, "a filter is a position in FILTERS");
    Placement placement{};
    std::copy_n(crop.data(), 4, placement.crop);
    std::copy_n(clip.data(), 4, placement.clip);
    std::copy_n(identity[0], 12, placement.color[0]);
    placement.flip = flip;
    placement.filter = Filter(filter);
    placement.warped = warp.has_value();
    if (warp) std::copy_n(warp->data(), 6, placement.warp[0]);
    return placement;
}

// Memory that is not decoded to has the value `poison`.
Array<uint8_t> draw_row(const py::buffer& record, const Array<float>& crop, const Array<int32_t>& clip, bool flip,
                        int filter, const std::optional<Array<float>>& warp, const std::string& level, bool whole,
                        bool scaled, int poison) {
    constexpr size_t most = size_t{1} << 22;
    const Bytes bytes(record);
    const Kernels& kernels = kernels_of(simd_level_named(level));
    const Placement placement = placement_of(crop, clip, flip, filter, warp);
    const int width = placement.clip[0] + placement.clip[2], height = placement.clip[1] + placement.clip[3];
    Array<uint8_t> pixels({height, width, 3});
    uint8_t* const out = pixels.mutable_data();
    WithoutGil without_gil;
    std::vector<PlacedRow> rows;
    rows.emplace_back(kernels);
    rows[0].open(placement);
    RecordDecoder decoder(kernels);
    TableCache tables;
    Buffer memory, line;
    std::memset(memory.ensure(most), poison, most);
    Planes planes;
    if (rows[0].needs_source()) {
        const Region region = whole ? Region{} : rows[0].region(scaled);
        decoder.planes(bytes.data(), bytes.size(), false, memory, planes, region);
        rows[0].set_source(planes, tables);
    }
    render({height, width, {0, 0, 0}}, rows, 1, line, out);
    return pixels;
}

}  // namespace

void bind_rows(py::module_& m) {
    m.def("draw_row", &draw_row, py::arg("record"), py::arg("crop").noconvert(), py::arg("clip").noconvert(),
          py::arg("flip"), py::arg("filter"), py::arg("warp").noconvert(), py::arg("level"), py::arg("whole"),
          py::arg("scaled"), py::arg("poison"),
          "Draw one row of a plan from a record of up to a megapixel, on black up to the end of its clip: (H, W, 3). Only\n"
          "what is shown is decoded, unless `whole` is set, at a smaller size where `scaled` allows it.");
}

}  // namespace fastload

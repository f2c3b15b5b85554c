// Renders a single record with the engine's decoders and kernels.
#include <memory>
#include <vector>

#include "bindings.h"
#include "record.h"
#include "render.h"

namespace fastload {
namespace {

constexpr uint32_t longest_side = 65'535;  // like the engine's canvases
constexpr float identity[3][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}};

Array<uint8_t> render_record(const py::buffer& buffer) {
    // On the heap rather than thread-local: see fault.cpp, whose handler needs that scarce memory.
    thread_local const auto decoder = std::make_unique<RecordDecoder>();
    thread_local const auto tables = std::make_unique<TableCache>();
    const Bytes bytes(buffer);
    const RecordHeader header = read_header(bytes.data(), bytes.size());
    if (header.width > longest_side || header.height > longest_side)
        throw RecordError("the image is longer than 65,535 pixels");
    const int width = int(header.width), height = int(header.height);
    Array<uint8_t> pixels({height, width, 3});
    uint8_t* const out = pixels.mutable_data();
    {
        WithoutGil without_gil;
        Buffer memory, row_memory;
        Planes planes;
        decoder->planes(bytes.data(), bytes.size(), false, memory, planes);
        Placement whole{{0, 0, float(width), float(height)}, {0, 0, width, height}, false, {}};
        std::copy_n(identity[0], 12, whole.color[0]);
        std::vector<PlacedRow> rows(1);
        rows[0].open(whole);
        rows[0].set_source(planes, *tables);
        render({height, width, {0, 0, 0}}, rows, 1, row_memory, out);
    }
    return pixels;
}

}  // namespace

void bind_record(py::module_& m) {
    m.def("render_record", &render_record, py::arg("record"),
          "The image of a record as (H, W, 3) uint8 RGB: the pixels that the engine draws at the image's own size.\n"
          "Does not verify the checksum. ValueError when the record does not decode.");
}

}  // namespace fastload

// The stages of decoding an image, each timed alone on one thread, and the references that benchmarks compare them
// with.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "bindings.h"
#include "color_change.h"
#include "record.h"
#include "picture.h"
#include "placed_row.h"
#include "testing.h"
#include "warped.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

using Clock = std::chrono::steady_clock;

constexpr float identity_color[3][4] = {{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Reads a byte of every cache line.
double read_loop(const std::vector<py::buffer>& records) {
    const std::vector<Bytes> bytes(records.begin(), records.end());
    WithoutGil without_gil;
    volatile uint8_t sink = 0;
    const auto start = Clock::now();
    for (const Bytes& record : bytes)
        for (size_t i = 0; i < record.size(); i += 64) sink = record.data()[i];
    (void)sink;
    return seconds_since(start);
}

// Decodes the entropy coding of records; skips JPEGs that libjpeg-turbo decodes.
double entropy_loop(const std::vector<py::buffer>& records, const std::string& level) {
    const std::vector<Bytes> bytes(records.begin(), records.end());
    const Kernels& kernels = kernels_of(simd_level_named(level));
    DctDecoder packed(kernels);
    JpegPlanesDecoder jpeg(kernels);
    WithoutGil without_gil;
    const auto start = Clock::now();
    for (const Bytes& record : bytes) {
        const RecordHeader header = read_header(record.data(), record.size());  // throws if it is shorter than a header
        const uint8_t* const payload = record.data() + sizeof header;
        if (static_cast<Encoding>(header.encoding) != Encoding::original)
            packed.streams_only(payload, header.payload);
        else if (is_huffman_sequential(payload, header.payload))
            jpeg.coefficients_only(payload, header.payload);
    }
    return seconds_since(start);
}

double planes_loop(const std::vector<py::buffer>& records, const std::string& level) {
    const std::vector<Bytes> bytes(records.begin(), records.end());
    RecordDecoder decoder(kernels_of(simd_level_named(level)));
    WithoutGil without_gil;
    Buffer memory;
    Planes planes;
    const auto start = Clock::now();
    for (const Bytes& record : bytes) decoder.planes(record.data(), record.size(), false, memory, planes);
    return seconds_since(start);
}

// Rows of canvases, consecutive in memory that is reused once it is full. Canvases are a multiple of 32 pixels wide and
// begin at a cache line.
class Rows {
public:
    Rows(const Array<uint8_t>& memory, const Array<int32_t>& sizes)
        : skipped_(-reinterpret_cast<uintptr_t>(memory.data()) % 64), base_(const_cast<uint8_t*>(memory.data())),
          size_(size_t(memory.size())) {
        require(memory.writeable(), "out must be writeable");
        require(sizes.size() % 2 == 0, "sizes must be (N, 2)");
        for (const int32_t* size = sizes.data(); size < sizes.data() + sizes.size(); size += 2)
            require(size[0] > 0 && size[1] > 0 && skipped_ + bytes(size[0]) <= size_,
                    "sizes must be positive and fit into out");
    }
    static size_t bytes(int width) { return size_t(3) * ((width + 31) / 32 * 32); }
    uint8_t* next(size_t size) {
        if (next_ + size > size_) next_ = skipped_;
        uint8_t* const row = base_ + next_;
        next_ += size;
        return row;
    }

private:
    const size_t skipped_;
    uint8_t* const base_;
    const size_t size_;
    size_t next_ = skipped_;
};

// Decodes each record and calls draw(planes, width, height), which returns the seconds to count. Returns their sum.
template <class Draw>
double draw_loop(const std::vector<py::buffer>& records, const Array<int32_t>& sizes, const Kernels& kernels,
                 const Draw& draw) {
    const std::vector<Bytes> bytes(records.begin(), records.end());
    require(sizes.size() == py::ssize_t(2 * bytes.size()), "a size for each record is needed");
    RecordDecoder decoder(kernels);
    Buffer memory;
    double seconds = 0;
    WithoutGil without_gil;
    for (size_t i = 0; i < bytes.size(); ++i) {
        Planes planes;
        decoder.planes(bytes[i].data(), bytes[i].size(), false, memory, planes);
        seconds += draw(planes, sizes.data()[2 * i], sizes.data()[2 * i + 1]);
    }
    return seconds;
}

// Decodes records, then draws each whole image in `sizes` (N, 2) width, height; only drawing is timed. Rows are stored
// to `out`, as in an engine, or without `store` stay where they were made.
double render_loop(const std::vector<py::buffer>& records, const Array<int32_t>& sizes, const std::string& level,
                   const Array<uint8_t>& out, bool store, int filter) {
    require(filter >= 0 && filter < filter_kinds, "a filter is a position in FILTERS");
    const Kernels& kernels = kernels_of(simd_level_named(level));
    Rows rows(out, sizes);
    Picture picture(kernels);
    TableCache tables;
    Buffer row_memory;
    return draw_loop(records, sizes, kernels, [&](const Planes& planes, int width, int height) {
        const size_t size = Rows::bytes(width);
        const View whole{0, 0, double(planes.width), double(planes.height), width, height, false, Filter(filter)};
        uint8_t* const row = row_memory.ensure(size);
        const auto start = Clock::now();
        picture.open(planes, whole, identity_color, tables);
        for (int y = 0; y < height; ++y) {
            uint8_t* const canvas = store ? rows.next(size) : nullptr;
            const size_t stored = size_t(3) * picture.draw(y, row, canvas);
            if (store) kernels.stream(canvas + stored, row + stored, size - stored);
        }
        return seconds_since(start);
    });
}

// Memory speed: streams rows of `sizes` that are in the cache to `out`.
double store_loop(const Array<int32_t>& sizes, const std::string& level, const Array<uint8_t>& out) {
    const Kernels& kernels = kernels_of(simd_level_named(level));
    Rows rows(out, sizes);
    Buffer memory;
    WithoutGil without_gil;
    const auto start = Clock::now();
    for (const int32_t* size = sizes.data(); size < sizes.data() + sizes.size(); size += 2) {
        const size_t bytes = Rows::bytes(size[0]);
        const uint8_t* const row = memory.ensure(bytes);
        for (int y = 0; y < size[1]; ++y) kernels.stream(rows.next(bytes), row, bytes);
    }
    return seconds_since(start);
}

// Decodes records, then draws each rotated by 10 degrees in `sizes` (N, 2) width, height, enlarged so that it covers all
// of it. Only sampling the tile is timed: drawing the tile takes as long as an aligned row.
double warp_loop(const std::vector<py::buffer>& records, const Array<int32_t>& sizes, const std::string& level) {
    const Kernels& kernels = kernels_of(simd_level_named(level));
    WarpedPicture picture(kernels);
    TableCache tables;
    Buffer row_memory;
    return draw_loop(records, sizes, kernels, [&](const Planes& planes, int width, int height) {
        constexpr float covering = 1.16f;  // cos 10 degrees + sin 10 degrees, and a little
        const float x = covering * float(width) / float(planes.width);
        const float y = covering * float(height) / float(planes.height);
        Placement placement{{0, 0, float(planes.width), float(planes.height)}, {0, 0, width, height}, false, {}};
        std::copy_n(identity_color[0], 12, placement.color[0]);
        placement.warped = true;
        const float turn[2][2] = {{.98480775f * x, -.17364818f * y}, {.17364818f * x, .98480775f * y}};
        for (int axis = 0; axis < 2; ++axis) {
            const float shift = float(axis ? height : width) / 2 -
                                (turn[axis][0] * float(planes.width) + turn[axis][1] * float(planes.height)) / 2;
            std::copy_n(turn[axis], 2, placement.warp[axis]);
            placement.warp[axis][2] = shift;
        }
        WarpedCrop crop;
        crop.open(placement);
        picture.open(placement, crop);
        picture.set_source(planes, placement.color, tables);
        uint8_t* const row = row_memory.ensure(size_t(3) * width);
        const auto start = Clock::now();
        for (int v = 0; v < height; ++v) picture.draw(v, crop.span(v), row);
        return seconds_since(start);
    });
}

// Blends rows of `sizes` that are in the cache.
double mix_loop(const Array<int32_t>& sizes, const std::string& level) {
    const Kernels& kernels = kernels_of(simd_level_named(level));
    Buffer over, under;
    WithoutGil without_gil;
    const auto start = Clock::now();
    for (const int32_t* size = sizes.data(); size < sizes.data() + sizes.size(); size += 2) {
        const size_t bytes = Rows::bytes(size[0]);
        uint8_t *const from = over.ensure(bytes), *const to = under.ensure(bytes);
        for (int y = 0; y < size[1]; ++y) kernels.mix(from, 128, bytes, to);
    }
    return seconds_since(start);
}

// Fills lines of `sizes` that are in the cache, as FILL rows do.
double fill_loop(const Array<int32_t>& sizes) {
    constexpr uint8_t color[3] = {114, 115, 116};
    Buffer memory;
    WithoutGil without_gil;
    const auto start = Clock::now();
    for (const int32_t* size = sizes.data(); size < sizes.data() + sizes.size(); size += 2) {
        uint8_t* const line = memory.ensure(Rows::bytes(size[0]));
        for (int y = 0; y < size[1]; ++y) fill_pixels(line, {0, size[0]}, color);
    }
    return seconds_since(start);
}

// Changes the colors of an image's lines, which are in the cache, by one of the kernels.
double adjust_loop(const std::string& step, int width, int height, const std::string& level) {
    require(width > 0 && height > 0, "the size must be positive");
    const Kernels& kernels = kernels_of(simd_level_named(level));
    constexpr float color[3][4] = {{1.1f, .1f, 0, 3}, {0, 1, .2f, -5}, {.1f, 0, .9f, 1}};
    const float hue = step == "hsv" ? .01f : 0, saturation = step == "value" ? 1 : 1.3f;
    const float hsv[5] = {hue, saturation, 0, .9f, 0};
    const PixelMatrix matrix = pixel_matrix(color);
    const HsvChange change = hsv_change(hsv);
    LevelTable table;
    for (int c = 0; c < 3; ++c)
        for (int i = 0; i < 256; ++i) table.level[c][i] = uint8_t(97 * i + c);
    std::vector<uint8_t> line(size_t(3) * width);
    for (size_t i = 0; i < line.size(); ++i) line[i] = uint8_t(i * i >> 3);
    const auto timed = [&](const auto& run) {
        WithoutGil without_gil;
        const auto start = Clock::now();
        for (int y = 0; y < height; ++y) run(line.data(), size_t(width));
        return seconds_since(start);
    };
    if (step == "hsv" || step == "saturation" || step == "value")
        return timed([&](uint8_t* rgb, size_t pixels) { kernels.adjust_hsv(rgb, pixels, change); });
    if (step == "recolor") return timed([&](uint8_t* rgb, size_t pixels) { kernels.recolor(rgb, pixels, matrix); });
    if (step == "table") return timed([&](uint8_t* rgb, size_t pixels) { kernels.look_up(rgb, pixels, table); });
    Histogram histogram{};
    require(step == "histogram", "a step is hsv, saturation, value, recolor, table or histogram");
    return timed([&](uint8_t* rgb, size_t pixels) { count_levels(rgb, pixels, histogram); });
}

// Decodes images from a shared counter until none is left: the reference of the benchmarks.
double decode_loop(const std::vector<py::buffer>& images, int threads) {
    std::vector<Bytes> bytes(images.begin(), images.end());
    WithoutGil without_gil;
    std::atomic<size_t> next{0};
    std::atomic<int> failures{0};
    auto work = [&] {
        JpegDecoder decoder;
        Buffer memory;
        for (size_t i; (i = next++) < bytes.size();) try {
                const JpegHeader header = decoder.header(bytes[i].data(), bytes[i].size());
                decoder.rgb(bytes[i].data(), bytes[i].size(), header,
                            memory.ensure(size_t(header.width) * header.height * 3));
            } catch (const JpegError&) {
                ++failures;
            }
    };
    const auto start = Clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    if (failures) throw JpegError(std::to_string(failures) + " images do not decode");
    return seconds_since(start);
}

}  // namespace

void bind_stages(py::module_& m) {
    m.def("read_loop", &read_loop, py::arg("records"), "Read records from memory; returns seconds.");
    m.def("entropy_loop", &entropy_loop, py::arg("records"), py::arg("level"),
          "Undo the entropy coding of `original`, `dct` or `dct-fast` records; returns seconds.");
    m.def("planes_loop", &planes_loop, py::arg("records"), py::arg("level"), "Decode records; returns seconds.");
    m.def("render_loop", &render_loop, py::arg("records"), py::arg("sizes"), py::arg("level"),
          py::arg("out").noconvert(), py::arg("store"), py::arg("filter") = 0,
          "Decode records, draw them in sizes (N, 2) width, height into `out`; returns the seconds of drawing.");
    m.def("store_loop", &store_loop, py::arg("sizes"), py::arg("level"), py::arg("out").noconvert(),
          "Write pictures of sizes (N, 2) width, height to `out` past the caches; returns seconds.");
    m.def("warp_loop", &warp_loop, py::arg("records"), py::arg("sizes"), py::arg("level"),
          "Decode records, draw them rotated in sizes (N, 2) width, height; returns the seconds of sampling.");
    m.def("mix_loop", &mix_loop, py::arg("sizes"), py::arg("level"),
          "Blend pictures of sizes (N, 2) width, height; returns seconds.");
    m.def("fill_loop", &fill_loop, py::arg("sizes"),
          "Fill pictures of sizes (N, 2) width, height with a color; returns seconds.");
    m.def("adjust_loop", &adjust_loop, py::arg("step"), py::arg("width"), py::arg("height"), py::arg("level"),
          "Change the colors of an image in one `step`: hsv, saturation (and value), value, recolor, table or histogram; "
          "returns seconds.");
    m.def("decode_loop", &decode_loop, py::arg("images"), py::arg("threads"),
          "Decode all images to RGB with nothing around it; returns seconds.");
    m.def(
        "cpu_seconds_without_gil", [] { return cpu_seconds_without_gil = std::max(cpu_seconds_without_gil, 0.0); },
        "CPU seconds that the calling thread has spent in the core without the GIL since it first asked.");
}

}  // namespace fastload

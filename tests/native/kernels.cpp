// Run under AddressSanitizer and UndefinedBehaviorSanitizer: random geometry through every kernel of this machine.
// Each must touch only what it may (planes are allocated to the byte, plus the promised slack) and equal the scalar one.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "color_change.h"
#include "kernels.h"
#include "pixel_format.h"
#include "planes.h"
#include "resample.h"
#include "rows.h"
#include "taps.h"
#include "tile.h"

using namespace fastload;

namespace {

std::mt19937 rng(7);
RandomNumbers numbers(8);

int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

int side() { return uniform(0, 4) ? uniform(1, 90) : uniform(1, 1500); }

Axis random_axis() {
    const int source = side(), size = side();
    const double extent = uniform(0, 1) ? source : std::uniform_real_distribution<double>(.01, 2 * source)(rng);
    const double start = uniform(0, 1) ? 0 : std::uniform_real_distribution<double>(-2. * source, 2. * source)(rng);
    return {start, extent, source, size, uniform(0, 1) == 1, Filter(uniform(0, filter_kinds - 1))};
}

size_t padded(int size) { return size_t(size + row_padding - 1) / row_padding * row_padding; }

void require(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "differs from scalar: %s\n", what);
    std::exit(1);
}

std::vector<int16_t> random_row(int size) {
    std::vector<int16_t> row(padded(size));
    for (int16_t& value : row) value = int16_t(uniform(-32640, 32640));
    return row;
}

void horizontal(const Kernels& kernels) {
    const HorizontalTable table = horizontal_table(random_axis());
    std::unique_ptr<uint8_t[]> row(new uint8_t[table.axis.source + plane_slack]);
    for (size_t i = 0; i < table.axis.source + plane_slack; ++i) row[i] = uint8_t(uniform(0, 255));
    std::vector<int16_t> out(padded(table.axis.size)), expected(out);
    kernels.horizontal(row.get(), table, out.data());
    scalar_kernels.horizontal(row.get(), table, expected.data());
    require(!std::memcmp(out.data(), expected.data(), sizeof(int16_t) * table.axis.size), "horizontal");
}

// Random rows, blended with the weights of an output row of `table`.
class Blended {
public:
    Blended(const VerticalTable& table, int y, int width)
        : weights_(&table.weight[size_t(y) * table.taps]), sum_(padded(width)) {
        for (int k = 0; k < table.taps; ++k) rows_.push_back(random_row(width));
        for (const auto& row : rows_) pointers_.push_back(row.data());
    }
    WeightedRows weighted() { return {pointers_.data(), weights_, int(rows_.size()), sum_.data()}; }

private:
    const int16_t* weights_;
    std::vector<int16_t> sum_;
    std::vector<std::vector<int16_t>> rows_;
    std::vector<const int16_t*> pointers_;
};

ColorMatrix random_matrix() {
    ColorMatrix matrix;
    for (auto& channel : matrix.plane)
        for (int16_t& factor : channel) factor = int16_t(uniform(-32767, 32767));
    for (int16_t& offset : matrix.offset) offset = int16_t(uniform(-32767, 32767));
    return matrix;
}

// Of the form that JFIF's colours have, which kernels may have a shorter way for; not all are small enough for it.
ColorMatrix random_ycbcr_matrix() {
    ColorMatrix matrix = random_matrix();
    const int limit = uniform(0, 3) ? 8191 : 32767;
    for (auto& channel : matrix.plane)
        for (int16_t& factor : channel) factor = int16_t(factor % limit);
    for (int c = 0; c < 3; ++c) {
        matrix.plane[c][0] = matrix.plane[0][0];
        matrix.offset[c] = int16_t(matrix.offset[0] % limit);
    }
    matrix.plane[0][1] = matrix.plane[2][2] = 0;
    return matrix;
}

void blend(const Kernels& kernels) {
    const int width = uniform(1, 300), count = uniform(0, 1) ? 3 : 1;
    const ColorMatrix matrix = uniform(0, 1) ? random_matrix() : random_ycbcr_matrix();
    const VerticalTable luma = vertical_table(random_axis()), chroma = vertical_table(random_axis());
    const int luma_y = uniform(0, luma.axis.size - 1), chroma_y = uniform(0, chroma.axis.size - 1);
    Blended y(luma, luma_y, width), cb(chroma, chroma_y, width), cr(chroma, chroma_y, width);
    const WeightedRows planes[3] = {y.weighted(), cb.weighted(), cr.weighted()};
    std::unique_ptr<uint8_t[]> out(new uint8_t[3 * width]), expected(new uint8_t[3 * width]);
    scalar_kernels.blend(planes, count, matrix, width, expected.get(), nullptr);
    kernels.blend(planes, count, matrix, width, out.get(), nullptr);
    require(!std::memcmp(out.get(), expected.get(), size_t(3) * width), "blend");

    Buffer memory;
    const size_t skew = uniform(0, 1) ? 0 : uniform(1, 70);
    uint8_t* const canvas = memory.ensure(skew + 3 * width) + skew;
    std::memset(out.get(), 0, size_t(3) * width);
    const int stored = kernels.blend(planes, count, matrix, width, out.get(), canvas);
    require(stored >= 0 && stored <= width, "the pixels on the canvas are no more than there are");
    std::copy_n(canvas, 3 * stored, out.get());
    require(!std::memcmp(out.get(), expected.get(), size_t(3) * width), "blend to a canvas");
}

// Paths between any two points of a tile that is allocated to the byte, plus the promised slack.
void warp(const Kernels& kernels) {
    const int width = uniform(2, 70), height = uniform(2, 70), count = uniform(1, 300);
    const size_t size = size_t(3) * width * height + tile_slack;
    std::unique_ptr<uint8_t[]> pixels(new uint8_t[size]), out(new uint8_t[3 * count]), expected(new uint8_t[3 * count]);
    for (size_t i = 0; i < size; ++i) pixels[i] = uint8_t(uniform(0, 9) ? uniform(0, 255) : 255 * uniform(0, 1));
    const Tile tile{pixels.get(), 3 * width};
    const auto point = [](int side) { return uniform(0, (side - 1) * 65536 - 1) & (uniform(0, 3) ? -1 : ~65535); };
    const int x = point(width), y = point(height), last = std::max(count - 1, 1);
    const TilePath path{x, y, (point(width) - x) / last, (point(height) - y) / last};
    scalar_kernels.warp(tile, path, count, expected.get());
    kernels.warp(tile, path, count, out.get());
    require(!std::memcmp(out.get(), expected.get(), size_t(3) * count), "warp");
    if (path.x % 65536 == 0 && path.y % 65536 == 0)
        require(!std::memcmp(out.get(), &pixels[size_t(y >> 16) * tile.stride + 3 * (x >> 16)], 3), "a pixel's center");
}

void mix(const Kernels& kernels) {
    const int size = uniform(0, 400), alpha = uniform(0, 256);
    std::unique_ptr<uint8_t[]> over(new uint8_t[size]), under(new uint8_t[size]), expected(new uint8_t[size]);
    for (int i = 0; i < size; ++i) over[i] = uint8_t(uniform(0, 255)), under[i] = expected[i] = uint8_t(uniform(0, 255));
    scalar_kernels.mix(over.get(), alpha, size_t(size), expected.get());
    kernels.mix(over.get(), alpha, size_t(size), under.get());
    require(!std::memcmp(under.get(), expected.get(), size_t(size)), "mix");
}

void stream(const Kernels& kernels) {
    const int size = uniform(0, 400), skew = uniform(0, 70);
    std::unique_ptr<uint8_t[]> from(new uint8_t[size]), to(new uint8_t[size + skew]);
    for (int i = 0; i < size; ++i) from[i] = uint8_t(uniform(0, 255));
    kernels.stream(to.get() + skew, from.get(), size);
    require(!std::memcmp(to.get() + skew, from.get(), size), "stream");
}

// Changes a copy of random pixels, in memory of just their size, by both.
template <class Change>
void change_pixels(const Kernels& kernels, const char* what, const Change& change) {
    const size_t count = size_t(uniform(0, 3) ? uniform(0, 150) : uniform(0, 1500)), size = 3 * count;
    std::unique_ptr<uint8_t[]> found(new uint8_t[size]), expected(new uint8_t[size]);
    const int limit = uniform(0, 3) ? 255 : uniform(0, 3);  // or mostly gray
    for (size_t i = 0; i < size; ++i) found[i] = expected[i] = uint8_t(uniform(0, limit));
    change(kernels, found.get(), count);
    change(scalar_kernels, expected.get(), count);
    require(!size || !std::memcmp(found.get(), expected.get(), size), what);
}

float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(rng); }

void change_colors(const Kernels& kernels) {
    const float limit = real(0, 9);  // beyond those that fixed point holds, too
    float color[3][4];
    for (auto& channel : color) {
        for (int k = 0; k < 3; ++k) channel[k] = real(-limit, limit);
        channel[3] = uniform(0, 3) ? real(-100, 100) : real(-3000, 3000);
    }
    const PixelMatrix matrix = pixel_matrix(color);
    change_pixels(kernels, "recolor", [&](const Kernels& chosen, uint8_t* rgb, size_t count) {
        chosen.recolor(rgb, count, matrix);
    });
    const float scale = uniform(0, 3) ? 1 : 100;
    const float hsv[5] = {uniform(0, 1) ? scale * real(-1, 1) : 0, uniform(0, 1) ? scale * real(0, 2) : 1,
                          uniform(0, 1) ? scale * real(-1, 1) : 0, uniform(0, 1) ? scale * real(0, 2) : 1,
                          uniform(0, 1) ? scale * real(-255, 255) : 0};
    const HsvChange change = hsv_change(hsv);
    change_pixels(kernels, "adjust_hsv", [&](const Kernels& chosen, uint8_t* rgb, size_t count) {
        chosen.adjust_hsv(rgb, count, change);
    });
    LevelTable table;
    for (auto& channel : table.level)
        for (uint8_t& level : channel) level = uint8_t(uniform(0, 255));
    change_pixels(kernels, "look_up", [&](const Kernels& chosen, uint8_t* rgb, size_t count) {
        chosen.look_up(rgb, count, table);
    });
}

void split(const Kernels& kernels) {
    const int width = uniform(1, 200);
    std::unique_ptr<uint8_t[]> rgb(new uint8_t[3 * width]), rows[2][3];
    for (int i = 0; i < 3 * width; ++i) rgb[i] = uint8_t(uniform(0, 255));
    for (int k = 0; k < 2; ++k) {
        for (auto& row : rows[k]) row.reset(new uint8_t[width]);
        uint8_t* const channels[3] = {rows[k][0].get(), rows[k][1].get(), rows[k][2].get()};
        (k ? kernels : scalar_kernels).split(rgb.get(), width, channels);
    }
    for (int c = 0; c < 3; ++c) require(!std::memcmp(rows[0][c].get(), rows[1][c].get(), size_t(width)), "split");
}

void convert(const Kernels& kernels) {
    const int count = uniform(1, 600), skew = uniform(0, 70);
    const std::unique_ptr<PixelFormat> format = random_format(numbers, uniform(1, sample_kinds - 1), false);
    const auto channels = static_cast<Channels>(uniform(0, 3));
    const size_t size = count * format->sample_bytes();
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[count]), out(new uint8_t[skew + size]), expected(new uint8_t[size]);
    for (int i = 0; i < count; ++i) bytes[i] = uint8_t(uniform(0, 255));
    scalar_kernels.convert(bytes.get(), size_t(count), *format, channels, expected.get());
    std::memset(out.get(), 99, size_t(skew));
    kernels.convert(bytes.get(), size_t(count), *format, channels, out.get() + skew);
    require(!std::memcmp(out.get() + skew, expected.get(), size), "convert");
    require(std::all_of(out.get(), out.get() + skew, [](uint8_t byte) { return byte == 99; }), "bytes before a row");
}

void weighted_sum(const Kernels& kernels) {
    const size_t channels = size_t(uniform(0, 3) ? uniform(0, 80) : uniform(80, 400)), cells = size_t(uniform(1, 6));
    std::vector<float> from(cells * cells * channels), ours(channels), theirs;
    for (float& value : from) value = float(uniform(-1000, 1000)) / 64;
    for (float& value : ours) value = float(uniform(-1000, 1000)) / 64;
    theirs = ours;
    std::vector<Tap> taps[2];
    for (int axis = 0; axis < 2; ++axis)
        for (int i = uniform(0, 5); i > 0; --i) {
            const size_t step = axis ? channels : cells * channels;
            taps[axis].push_back({ptrdiff_t(size_t(uniform(0, int(cells) - 1)) * step), float(uniform(1, 999)) / 999});
        }
    const TapGrid grid{taps[0].data(), taps[0].data() + taps[0].size(), taps[1].data(), taps[1].data() + taps[1].size()};
    const bool add = uniform(0, 1);
    kernels.weighted_sum(from.data(), grid, channels, add, ours.data());
    scalar_kernels.weighted_sum(from.data(), grid, channels, add, theirs.data());
    require(ours == theirs, "weighted sums");
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 3000;
    for (int i = 0; i < rounds; ++i) {
        horizontal(kernels());
        blend(kernels());
        warp(kernels());
        mix(kernels());
        weighted_sum(kernels());
        stream(kernels());
        change_colors(kernels());
        split(kernels());
        convert(kernels());
        if (i % 4 == 0) meet_rows(numbers);
    }
    std::puts("equal");
}

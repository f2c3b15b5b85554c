// Run under AddressSanitizer and UndefinedBehaviorSanitizer with a number and a seed: draws so many batches of masks from
// polygons, run lengths, offsets and rows that are damaged in all ways, into memory of exactly their size. Prints how
// many slots were drawn and how many refused.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>

#include "mask_batch.h"

using namespace fastload;

namespace {

std::mt19937 rng;

int64_t uniform(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(rng); }

float coordinate() {
    constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float odd[] = {0, -0.f, nan, inf, -inf, 3e38f, -3e38f, 1e-40f, 2147483648.f, 4e8f, -4e8f, 429496736.f};
    if (uniform(0, 99) == 0) return odd[uniform(0, 11)];
    const float within = float(uniform(-2000, 4000)) / 10;
    return uniform(0, 9) ? within : within * 1e5f;
}

// The offsets of `rows` lists of `values` values, sometimes wrong.
std::vector<int64_t> offsets(size_t rows, int64_t values) {
    std::vector<int64_t> found(rows + 1);
    for (int64_t& offset : found) offset = uniform(0, values);
    std::sort(found.begin(), found.end());
    if (uniform(0, 9) == 0) found[size_t(uniform(0, int64_t(rows)))] = uniform(0, 1) ? uniform(-5, values + 5) : INT64_MIN + uniform(0, 9);
    return found;
}

void append_run(std::vector<uint8_t>& bytes, int64_t value) {
    for (bool more = true; more;) {
        int digit = int(value & 31);
        value >>= 5;
        more = digit & 16 ? value != -1 : value != 0;
        bytes.push_back(uint8_t(digit + (more ? 32 : 0) + '0'));
    }
}

// Run lengths of a mask, sometimes of another size or with changed bytes.
std::vector<uint8_t> run_lengths(int64_t pixels) {
    std::vector<uint8_t> bytes;
    std::vector<int64_t> runs;
    if (uniform(0, 9) == 0) pixels += uniform(-3, 3);
    for (int64_t rest = pixels; rest > 0; rest -= runs.back()) runs.push_back(std::min(rest, uniform(0, uniform(0, 1) ? 9 : pixels)));
    for (size_t i = 0; i < runs.size(); ++i) append_run(bytes, runs[i] - (i > 2 ? runs[i - 2] : 0));
    if (uniform(0, 9) == 0 && !bytes.empty()) bytes[size_t(uniform(0, int64_t(bytes.size()) - 1))] = uint8_t(uniform(0, 255));
    return bytes;
}

Placement placement(int width, int height) {
    Placement row{};
    const int64_t x = uniform(0, width - 1), y = uniform(0, height - 1);
    const int32_t clip[4] = {int32_t(x), int32_t(y), int32_t(uniform(1, width - x)), int32_t(uniform(1, height - y))};
    std::copy_n(clip, 4, row.clip);
    const float crop[4] = {float(uniform(-50, 50)), float(uniform(-50, 50)), float(uniform(1, 900)) / 3, float(uniform(1, 900)) / 3};
    std::copy_n(crop, 4, row.crop);
    row.flip = uniform(0, 1);
    row.warped = uniform(0, 1);
    for (auto& line : row.warp)
        for (float& value : line) value = float(uniform(-300, 300)) / 100 * (uniform(0, 19) ? 1 : 1e6f);
    if (row.warp[0][0] * row.warp[1][1] == row.warp[0][1] * row.warp[1][0]) row.warped = false;
    row.alpha = uniform(0, 1) ? opaque : int(uniform(0, 255));
    row.kind = uniform(0, 3) ? Kind::source : uniform(0, 1) ? Kind::fill : Kind::adjust;
    return row;
}

bool draw() {
    const size_t objects = size_t(uniform(1, 12)), rings = size_t(uniform(0, 20)), points = size_t(uniform(0, 120));
    const int32_t annotated[2] = {int32_t(uniform(uniform(0, 9) ? 1 : -2, 60)), int32_t(uniform(uniform(0, 9) ? 1 : -2, 60))};
    // Vectors of exactly the size that they have, so that reading beyond is noticed.
    std::vector<float> values(2 * points);
    for (float& value : values) value = coordinate();
    const std::vector<int64_t> of_objects = offsets(objects, int64_t(rings)), of_rings = offsets(rings, int64_t(points));
    std::vector<uint8_t> bytes;
    std::vector<int64_t> of_bytes{0};
    for (size_t i = 0; i < objects; ++i) {
        const std::vector<uint8_t> more = run_lengths(int64_t{annotated[0]} * annotated[1]);
        bytes.insert(bytes.end(), more.begin(), more.end());
        of_bytes.push_back(int64_t(bytes.size()));
    }
    const bool polygons = uniform(0, 1), masks = uniform(0, 1);
    const std::vector<int64_t> first_objects{0, int64_t(objects)};
    MaskShapes::Arrays arrays;
    if (polygons) {
        arrays.points = values.data();
        arrays.points_count = points;
        arrays.rings = {of_objects.data(), objects};
        arrays.ring_points = {of_rings.data(), rings};
    }
    if (masks) {
        arrays.bytes = bytes.data();
        arrays.bytes_count = bytes.size();
        arrays.objects_bytes = {of_bytes.data(), objects};
    }
    arrays.first_objects = first_objects.data();
    arrays.annotated = annotated;
    arrays.images = 1;

    const int width = int(uniform(1, 300)), height = int(uniform(1, 200));
    const MaskSize size = MaskSize::of(width, height, uniform(0, 1) ? 1 : int(uniform(1, 400)));
    std::vector<Placement> rows;
    std::vector<MaskBatch::Source> sources;
    std::vector<MaskBatch::Shown> shown;
    const int count = int(uniform(1, 4));
    const int32_t layer = int32_t(uniform(0, 2));
    for (int row = 0; row < count; ++row) {
        rows.push_back(placement(width, height));
        if (row > 1) rows.back().layer = layer;
        sources.push_back({0, {annotated[0], annotated[1]}});
        for (int64_t i = uniform(0, 6); i > 0; --i) shown.push_back({uniform(0, int64_t(objects) - (uniform(0, 29) != 0)), row});
    }
    const MaskBatch batch(std::make_shared<MaskShapes>(arrays, nullptr), size, shown, sources, {0, count}, uniform(0, 1));
    std::vector<uint8_t> memory(batch.bytes());
    MaskBatch::Workspace workspace;
    try {
        batch.draw(0, rows.data(), memory.data(), workspace);
    } catch (const MaskError&) {
        return false;
    }
    return true;
}

}  // namespace

int main(int, char** argv) {
    const long rounds = std::strtol(argv[1], nullptr, 10);
    rng.seed(uint32_t(std::strtoul(argv[2], nullptr, 10)));
    long drawn = 0;
    for (long round = 0; round < rounds; ++round) drawn += draw();
    std::printf("%ld drawn, %ld refused\n", drawn, rounds - drawn);
}

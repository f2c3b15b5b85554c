// Rows of all kinds, one over another on a canvas, from any source of numbers: a generator, or the bytes of a fuzzer.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

#include "geometry.h"
#include "meet.h"
#include "pixel_format.h"
#include "render.h"

namespace fastload {

class RandomNumbers {
public:
    explicit RandomNumbers(unsigned seed) : generator_(seed) {}
    int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator_); }
    double real(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator_); }
    float any_float() {
        const auto bits = uint32_t(generator_());
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }

private:
    std::mt19937 generator_;
};

// After the last byte, all numbers are the lowest.
class NumbersOfBytes {
public:
    NumbersOfBytes(const uint8_t* data, size_t size) : data_(data), left_(size) {}
    int uniform(int low, int high) {
        const int64_t values = int64_t(high) - low + 1;
        return low + int((values <= 256 ? take<uint8_t>() : take<uint32_t>()) % values);
    }
    double real(double low, double high) { return low + (high - low) * take<uint16_t>() / 65535; }
    float any_float() { return take<float>(); }

private:
    template <class T>
    T take() {
        T value{};
        const size_t size = std::min(left_, sizeof value);
        if (size) std::memcpy(&value, data_, size);
        data_ += size;
        left_ -= size;
        return value;
    }

    const uint8_t* data_;
    size_t left_;
};

// One of those that are used, or with deviations whose reciprocals are subnormal or overflow.
template <class Numbers>
std::unique_ptr<PixelFormat> random_format(Numbers& numbers, int sample, bool planar) {
    std::array<float, 3> mean, deviation;
    const int scale = numbers.uniform(0, 9) ? 0 : numbers.uniform(-126, 126);
    for (float& value : mean) value = numbers.uniform(0, 3) ? float(numbers.real(-50, 300)) : 0;
    for (float& value : deviation) value = std::ldexp(float(numbers.real(.5, 300)), scale);
    for (float& value : deviation) value = std::isfinite(value) ? value : 255;
    return std::make_unique<PixelFormat>(static_cast<Sample>(sample), planar, mean, deviation);
}

// A decoded image with memory of just its size: small, of one pixel, or a strip of 10,000.
struct RandomSource {
    template <class Numbers>
    explicit RandomSource(Numbers& numbers) {
        int size[2] = {numbers.uniform(1, 60), numbers.uniform(1, 60)};
        if (numbers.uniform(0, 9) == 0) size[0] = size[1] = 1;
        if (numbers.uniform(0, 9) == 0) size[numbers.uniform(0, 1)] = 1;
        if (numbers.uniform(0, 19) == 0) {
            const int axis = numbers.uniform(0, 1);
            size[axis] = 10000;
            size[1 - axis] = numbers.uniform(1, 3);
        }
        const auto kind = static_cast<Subsampling>(numbers.uniform(0, subsampling_kinds - 1));
        planes = {{}, kind == gray ? 1 : 3, size[0], size[1], kind, kind == s444 && numbers.uniform(0, 3) == 0};
        for (int c = 0; c < planes.count; ++c) {
            const int dx = c ? chroma_divisor_x[kind] : 1, dy = c ? chroma_divisor_y[kind] : 1;
            const int width = (size[0] + dx - 1) / dx, height = (size[1] + dy - 1) / dy;
            const size_t bytes = size_t(width) * height + plane_slack;
            memory[c].reset(new uint8_t[bytes]);
            uint32_t state = uint32_t(numbers.uniform(0, 1 << 30));  // not a number a pixel, of which a fuzzer has few
            for (size_t i = 0; i < bytes; ++i) memory[c][i] = uint8_t((state = state * 1664525 + 1013904223) >> 24);
            planes.plane[c] = {memory[c].get(), width, height, width};
        }
    }

    Planes planes;
    std::unique_ptr<uint8_t[]> memory[3];
};

// Whether the engine would draw such a row: as `check` in engine.cpp.
inline bool is_drawable(const Placement& placement) {
    const float* crop = placement.crop;
    if (!std::isfinite(crop[0]) || !std::isfinite(crop[1])) return false;
    for (int k = 2; k < 4; ++k)
        if (!(crop[k] > 0 && crop[k] <= 1e6f)) return false;
    Affine map = Affine::aligned(crop, placement.clip, placement.flip);
    if (placement.warped) std::copy_n(placement.warp[0], 6, map.m[0]);
    const auto& m = map.m;
    return std::all_of(m[0], m[0] + 6, [](float value) { return std::isfinite(value); }) &&
           double(m[0][0]) * m[1][1] - double(m[0][1]) * m[1][0] != 0;
}

// The whole source, a part of it, a part of more than it, or any numbers.
template <class Numbers>
void random_crop(Numbers& numbers, int width, int height, float crop[4]) {
    const int kind = numbers.uniform(0, 9), size[2] = {width, height};
    for (int axis = 0; axis < 2; ++axis) {
        const double whole = size[axis];
        crop[axis] = 0;
        crop[axis + 2] = float(whole);
        if (kind == 0) {
            crop[axis] = numbers.any_float();
            crop[axis + 2] = numbers.any_float();
        } else if (kind == 1) {
            crop[axis] = float(numbers.real(-2 * whole, 2 * whole));
            crop[axis + 2] = float(std::exp(numbers.real(-5, 13)));
        } else if (kind < 5) {
            crop[axis] = float(numbers.real(0, .9 * whole));
            crop[axis + 2] = std::max(float(numbers.real(0, whole - crop[axis])), .01f);
        }
    }
}

// Mostly one that shows the source on the canvas, else of any magnitude, nearly singular or any numbers.
template <class Numbers>
void random_warp(Numbers& numbers, Placement& placement) {
    const int kind = numbers.uniform(0, 9);
    const double scale = std::exp(numbers.real(-3, 3)), extreme = std::exp(numbers.real(-40, 40));
    placement.warped = true;
    for (auto& row : placement.warp)
        for (int k = 0; k < 2; ++k) row[k] = float(numbers.real(-scale, scale) * (kind == 0 ? extreme : 1));
    if (kind == 2)
        for (int k = 0; k < 2; ++k) placement.warp[1][k] = placement.warp[0][k] * (1 + 1e-6f * float(numbers.uniform(0, 3)));
    const float* crop = placement.crop;
    const double center[2] = {crop[0] + crop[2] / 2., crop[1] + crop[3] / 2.};
    for (int axis = 0; axis < 2; ++axis) {  // the crop's center is shown somewhere near the clip
        float* const row = placement.warp[axis];
        const double shown = placement.clip[axis] + numbers.real(-.3, 1.3) * placement.clip[axis + 2];
        row[2] = float(shown - row[0] * center[0] - row[1] * center[1]);
        if (kind == 1) std::generate_n(row, 3, [&] { return numbers.any_float(); });
    }
}

// What only ADJUST rows have.
template <class Numbers>
void random_changes(Numbers& numbers, Placement& placement) {
    placement.changes_hsv = numbers.uniform(0, 1);
    const double reach = numbers.uniform(0, 3) ? 1 : 8;
    placement.hsv[0] = numbers.uniform(0, 1) ? float(numbers.real(-reach, reach) * (reach > 1 ? 128 : 1)) : 0;
    for (int k : {1, 3}) placement.hsv[k] = numbers.uniform(0, 1) ? float(numbers.real(0, 2) * (reach > 1 ? 4 : 1)) : 1;
    placement.hsv[2] = numbers.uniform(0, 1) ? float(numbers.real(-reach, reach)) : 0;
    placement.hsv[4] = numbers.uniform(0, 1) ? float(numbers.real(-256, 256) * reach) : 0;
    placement.table = static_cast<Placement::Table>(numbers.uniform(0, 3));
    if (placement.table != Placement::Table::given) return;
    auto levels = std::make_shared<LevelTable>();
    const int factor = numbers.uniform(0, 255), shift = numbers.uniform(0, 255);
    for (int c = 0; c < 3; ++c)
        for (int i = 0; i < 256; ++i) levels->level[c][i] = uint8_t(factor * i + shift + 85 * c);
    placement.levels = std::move(levels);
}

template <class Numbers>
Placement random_placement(Numbers& numbers, const Planes& source, const Canvas& canvas, bool general) {
    Placement placement{};
    const int left = numbers.uniform(0, canvas.width - 1), top = numbers.uniform(0, canvas.height - 1);
    const int clip[4] = {left, top, numbers.uniform(1, canvas.width - left), numbers.uniform(1, canvas.height - top)};
    std::copy_n(clip, 4, placement.clip);
    for (int c = 0; c < 3; ++c) placement.color[c][c] = 1;
    placement.flip = numbers.uniform(0, 1);
    placement.filter = Filter(numbers.uniform(0, filter_kinds - 1));
    random_crop(numbers, source.width, source.height, placement.crop);
    if (general) {
        placement.kind = static_cast<Kind>(numbers.uniform(0, 2));
        if (numbers.uniform(0, 1)) random_warp(numbers, placement);
        if (numbers.uniform(0, 1)) placement.alpha = numbers.uniform(0, opaque);
        const int strength = numbers.uniform(0, 9) ? 1 : 8;
        for (auto& channel : placement.color)
            for (int k = 0; k < 4; ++k)
                if (numbers.uniform(0, 1)) channel[k] = float(numbers.real(-1, 1) * strength * (k == 3 ? 256 : 1));
        if (placement.kind == Kind::adjust) random_changes(numbers, placement);
    }
    if (is_drawable(placement)) return placement;
    placement.warped = false;
    const float whole[4] = {0, 0, float(source.width), float(source.height)};
    std::copy_n(whole, 4, placement.crop);
    return placement;
}

// Up to six rows. All kernels give the bits of the scalar ones, and each format has the packed bytes by its tables.
template <class Numbers>
void meet_rows(Numbers& numbers) {
    const bool wide = numbers.uniform(0, 9) == 0, general = numbers.uniform(0, 1);
    Canvas packed{numbers.uniform(1, wide ? 3 : 40), numbers.uniform(1, wide ? 3000 : 150),
                  {uint8_t(numbers.uniform(0, 255)), 7, 200}};
    const size_t count = size_t(numbers.uniform(0, 6));
    std::vector<RandomSource> sources;
    std::vector<Placement> placements;
    TableCache tables;
    for (size_t i = 0; i < count; ++i) {
        sources.emplace_back(numbers);
        Placement placement = random_placement(numbers, sources[i].planes, packed, general);
        PlacedRow row;
        row.open(placement);
        if (row.needs_source()) try {
                row.set_source(sources[i].planes, tables);
            } catch (const std::runtime_error&) {  // it is too large to be rotated
                placement.kind = Kind::fill;
            }
        const int layer = i ? placements[i - 1].layer : 0;
        if (layer && numbers.uniform(0, 3)) placement.layer = layer;
        if (general && placement.kind == Kind::fill && numbers.uniform(0, 1)) placement.layer = numbers.uniform(1, 3);
        placements.push_back(placement);
    }
    const auto draw = [&](const Canvas& canvas, const Kernels& chosen, uint8_t* out) {
        std::vector<PlacedRow> rows;
        Buffer line;
        for (size_t i = 0; i <= count; ++i) rows.emplace_back(chosen);  // a pool has more of them than it shows
        for (size_t i = 0; i < count; ++i) {
            rows[i].open(placements[i]);
            if (rows[i].needs_source()) rows[i].set_source(sources[i].planes, tables);
        }
        render(canvas, rows, count, line, out);
    };
    const size_t pixels = size_t(packed.height) * packed.width, skew = size_t(numbers.uniform(0, 70));
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[packed.bytes()]), expected(new uint8_t[packed.bytes()]);
    draw(packed, scalar_kernels, expected.get());
    draw(packed, kernels(), bytes.get());
    must(!std::memcmp(bytes.get(), expected.get(), packed.bytes()), "rows differ from those of the scalar kernels");

    Canvas other = packed;
    other.format = random_format(numbers, numbers.uniform(0, sample_kinds - 1), numbers.uniform(0, 1) == 1);
    const PixelFormat& format = *other.format;
    const size_t size = format.sample_bytes();
    must(other.bytes() == 3 * pixels * size, "a canvas's size");
    std::unique_ptr<uint8_t[]> out(new uint8_t[skew + other.bytes()]);
    draw(other, kernels(), out.get() + skew);
    for (size_t i = 0; i < pixels; ++i)
        for (size_t c = 0; c < 3; ++c) {
            const uint32_t sample = format.table[c][bytes[3 * i + c]];
            const uint8_t* const found = out.get() + skew + size * (format.planar ? pixels * c + i : 3 * i + c);
            must(!std::memcmp(found, &sample, size), "a canvas in another format");
        }
}

}  // namespace fastload

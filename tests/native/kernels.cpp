// Run under AddressSanitizer and UndefinedBehaviorSanitizer: random geometry through every kernel of this machine.
// Each must touch only what it may (planes are allocated to the byte, plus the promised slack) and equal the scalar one.
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "../../fastload/csrc/resample.h"
#include "../../fastload/csrc/planes.h"

using namespace fastload;

namespace {

std::mt19937 rng(7);

int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); }

int side() { return uniform(0, 4) ? uniform(1, 90) : uniform(1, 1500); }

Axis random_axis() {
    const int source = side(), size = side();
    const double extent = uniform(0, 1) ? source : std::uniform_real_distribution<double>(.01, 2 * source)(rng);
    const double start = uniform(0, 1) ? 0 : std::uniform_real_distribution<double>(-2. * source, 2. * source)(rng);
    return {start, extent, source, size, uniform(0, 1) == 1};
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

void vertical(const Kernels& kernels) {
    const VerticalTable table = vertical_table(random_axis());
    const int width = uniform(1, 300), y = uniform(0, table.axis.size - 1);
    std::vector<std::vector<int16_t>> rows;
    std::vector<const int16_t*> pointers;
    for (int k = 0; k < table.taps; ++k) rows.push_back(random_row(width));
    for (const auto& row : rows) pointers.push_back(row.data());
    std::vector<int16_t> out(padded(width)), expected(out);
    const int16_t* weights = &table.weight[size_t(y) * table.taps];
    kernels.vertical(pointers.data(), weights, table.taps, width, out.data());
    scalar_kernels.vertical(pointers.data(), weights, table.taps, width, expected.data());
    require(!std::memcmp(out.data(), expected.data(), sizeof(int16_t) * width), "vertical");
}

void color(const Kernels& kernels) {
    const int width = uniform(1, 300);
    const std::vector<int16_t> y = random_row(width), cb = random_row(width), cr = random_row(width);
    ColorMatrix matrix;
    for (auto& channel : matrix.plane)
        for (int16_t& factor : channel) factor = int16_t(uniform(-32767, 32767));
    for (int16_t& offset : matrix.offset) offset = int16_t(uniform(-32767, 32767));
    const bool grey = uniform(0, 1);
    const int16_t* planes[3] = {y.data(), grey ? nullptr : cb.data(), grey ? nullptr : cr.data()};
    std::unique_ptr<uint8_t[]> out(new uint8_t[3 * width]), expected(new uint8_t[3 * width]);
    kernels.color(planes, matrix, width, out.get());
    scalar_kernels.color(planes, matrix, width, expected.get());
    require(!std::memcmp(out.get(), expected.get(), size_t(3) * width), "color");
}

void stream(const Kernels& kernels) {
    const int size = uniform(0, 400), skew = uniform(0, 70);
    std::unique_ptr<uint8_t[]> from(new uint8_t[size]), to(new uint8_t[size + skew]);
    for (int i = 0; i < size; ++i) from[i] = uint8_t(uniform(0, 255));
    kernels.stream(to.get() + skew, from.get(), size);
    require(!std::memcmp(to.get() + skew, from.get(), size), "stream");
}

}  // namespace

int main(int argc, char** argv) {
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 3000;
    for (int i = 0; i < rounds; ++i) {
        horizontal(kernels());
        vertical(kernels());
        color(kernels());
        stream(kernels());
    }
    std::puts("equal");
}

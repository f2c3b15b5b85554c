#include "resample.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace fastload {
namespace {

int rounded_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Rounds a value that is not negative. Unlike std::lround, it is not a function call.
int nearest(double value) { return int(value + .5); }

bool enlarges(const Axis& axis) { return axis.extent <= axis.size; }

// The position of output u if the axis were not flipped.
int unflipped(const Axis& axis, int u) { return axis.flip ? axis.size - 1 - u : u; }

struct Pair {
    int near, far;  // samples, within the plane
    double far_share;
};

Pair bilinear(const Axis& axis, int u) {
    const double position = axis.start + (unflipped(axis, u) + .5) * axis.extent / axis.size - .5;
    const double inside = std::clamp(position, 0., double(axis.source - 1));
    const int near = int(inside);
    return {near, std::min(near + 1, axis.source - 1), inside - near};
}

// The triangle of each output: `taps` weights from sample `first` on. All taps lie within the plane.
struct Windows {
    int taps;
    std::vector<int> first;
    std::vector<double> weights;  // (output, taps), summing to 1
};

Windows triangles(const Axis& axis) {
    const double scale = axis.extent / axis.size;
    const int taps = int(std::min(std::ceil(2 * scale) + 1, double(axis.source)));
    Windows windows{taps, std::vector<int>(axis.size), std::vector<double>(size_t(axis.size) * taps)};
    for (int u = 0; u < axis.size; ++u) {
        const double center = std::clamp(axis.start + (unflipped(axis, u) + .5) * scale, 0., double(axis.source));
        const int begin = int(std::clamp(center - scale + .5, 0., axis.source - 1.));
        const int end = std::max(begin + 1, int(std::min(center + scale + .5, double(axis.source))));
        windows.first[u] = std::min(begin, axis.source - taps);
        double* const weights = &windows.weights[size_t(u) * taps];
        double sum = 0;
        for (int i = begin; i < end; ++i)
            sum += weights[i - windows.first[u]] = std::max(0., 1 - std::abs(i + .5 - center) / scale);
        if (sum <= 0) weights[begin - windows.first[u]] = sum = 1;
        for (int k = 0; k < taps; ++k) weights[k] /= sum;
    }
    return windows;
}

void fill_bilinear(HorizontalTable& table) {
    const Axis& axis = table.axis;
    const int padded = rounded_up(axis.size, 32);
    table.taps = 2;
    table.base8.assign(padded / 8, 0);
    table.base32.assign(padded / 32, 0);
    table.index8.assign(2 * padded, 0);
    table.index32.assign(2 * padded, 0);
    table.weight.assign(2 * padded, 0);
    std::vector<Pair> pairs(axis.size);
    for (int u = 0; u < axis.size; ++u) pairs[u] = bilinear(axis, u);
    uint8_t* weight = table.weight.data();
    for (const Pair& pair : pairs) {
        const int far_weight = nearest(pair.far_share * 255);
        *weight++ = uint8_t(255 - far_weight);
        *weight++ = uint8_t(far_weight);
    }
    auto fill = [&pairs](size_t block, std::vector<int32_t>& base, std::vector<uint8_t>& index) {
        uint8_t* out = index.data();
        for (size_t b = 0; b * block < pairs.size(); ++b) {
            const size_t begin = b * block, end = std::min(begin + block, pairs.size());
            const int lowest = std::min(pairs[begin].near, pairs[end - 1].near);  // positions are monotonic
            base[b] = lowest;
            for (const Pair *pair = &pairs[begin], *last = pair + (end - begin); pair < last; ++pair) {
                *out++ = uint8_t(pair->near - lowest);
                *out++ = uint8_t(pair->far - lowest);
            }
        }
    };
    fill(8, table.base8, table.index8);  // at most 8 samples apart, and one more
    fill(32, table.base32, table.index32);
}

// The positions of each output's four samples in a vector of 4 * block bytes from `base` on. Returns false if some lie
// beyond it.
bool index_shuffles(const std::vector<int32_t>& start, int block, std::vector<int32_t>& base,
                    std::vector<uint8_t>& index) {
    base.resize(start.size() / block);
    index.resize(4 * start.size());
    for (size_t b = 0; b < base.size(); ++b) {
        const auto first = start.begin() + b * block, last = first + block;
        const int lowest = base[b] = *std::min_element(first, last);
        if (*std::max_element(first, last) - lowest + 4 > 4 * block) return false;
        uint8_t* to = &index[4 * block * b];
        for (auto output = first; output < last; ++output, to += 4)
            for (int k = 0; k < 4; ++k) to[k] = uint8_t(*output - lowest + k);
    }
    return true;
}

void fill_triangles(HorizontalTable& table) {
    const Axis& axis = table.axis;
    const Windows windows = triangles(axis);
    const int padded = rounded_up(axis.size, 16), groups = rounded_up(windows.taps, 4) / 4;
    table.taps = 4 * groups;
    table.start.assign(padded, 0);
    table.weights.assign(size_t(4) * groups * padded, 0);
    table.norm.assign(padded, 0);
    for (int u = 0; u < axis.size; ++u) {
        const double* weights = &windows.weights[size_t(u) * windows.taps];
        const double unit = 255 / *std::max_element(weights, weights + windows.taps);
        uint8_t* const first = &table.weights[(size_t(u / 16) * groups * 16 + u % 16) * 4];
        int sum = 0;
        for (int k = 0; k < windows.taps; ++k) {
            const int weight = nearest(weights[k] * unit);
            first[k / 4 * 64 + k % 4] = uint8_t(weight);
            sum += weight;
        }
        table.start[u] = windows.first[u];
        table.norm[u] = 255.f / float(sum);
    }
    std::fill(table.start.begin() + axis.size, table.start.end(), table.start[axis.size - 1]);
    table.shuffles4 = index_shuffles(table.start, 4, table.base4, table.index4);
    table.shuffles16 = index_shuffles(table.start, 16, table.base16, table.index16);
}

// Rounds weights that sum to 1 to units of 1/32768. The largest weight takes the rounding error.
void quantise(const double* weights, int taps, int16_t* out) {
    int left = 32768;
    for (int k = 0; k < taps; ++k) left -= nearest(weights[k] * 32768);
    const int largest = int(std::max_element(weights, weights + taps) - weights);
    for (int k = 0; k < taps; ++k)
        out[k] = int16_t(std::min(nearest(weights[k] * 32768) + (k == largest ? left : 0), 32767));
}

template <class Table, class Make>
std::shared_ptr<const Table> cached(std::shared_ptr<const Table>* slots, int count, const Axis& axis, Make make) {
    const std::hash<double> hash;
    const size_t key = hash(axis.start) * 31 + hash(axis.extent) * 17 + size_t(axis.source) * 131 +
                       size_t(axis.size) * 2654435761u + axis.flip;
    std::shared_ptr<const Table>& slot = slots[(key ^ key >> 17) % count];
    if (!slot || !(slot->axis == axis)) slot = std::make_shared<const Table>(make(axis));
    return slot;
}

}  // namespace

HorizontalTable horizontal_table(const Axis& axis) {
    HorizontalTable table{};
    table.axis = axis;
    enlarges(axis) ? fill_bilinear(table) : fill_triangles(table);
    return table;
}

VerticalTable vertical_table(const Axis& axis) {
    VerticalTable table{axis, 2, std::vector<int32_t>(axis.size), {}};
    if (enlarges(axis)) {
        table.weight.resize(2 * axis.size);
        for (int u = 0; u < axis.size; ++u) {
            const Pair pair = bilinear(axis, u);
            const double weights[2] = {1 - pair.far_share, pair.far_share};
            table.first[u] = pair.near;
            quantise(weights, 2, &table.weight[2 * u]);
        }
        return table;
    }
    const Windows windows = triangles(axis);
    table.taps = windows.taps;
    table.first.assign(windows.first.begin(), windows.first.end());
    table.weight.resize(size_t(windows.taps) * axis.size);
    for (int u = 0; u < axis.size; ++u)
        quantise(&windows.weights[size_t(u) * windows.taps], windows.taps, &table.weight[size_t(u) * windows.taps]);
    return table;
}

std::shared_ptr<const HorizontalTable> TableCache::horizontal(const Axis& axis) {
    return cached(horizontal_, slots, axis, horizontal_table);
}

std::shared_ptr<const VerticalTable> TableCache::vertical(const Axis& axis) {
    return cached(vertical_, slots, axis, vertical_table);
}

}  // namespace fastload

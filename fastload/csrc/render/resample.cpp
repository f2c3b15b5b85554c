#include "resample.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace fastload {
namespace {

int rounded_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// Unlike std::lround, it is not a function call.
int nearest(double value) {
    const int truncated = int(value + .5);
    return truncated - (value + .5 < truncated);
}

bool takes_pairs(const Axis& axis) {
    switch (axis.filter) {
        case Filter::bilinear:
            return axis.extent <= axis.size;
        case Filter::bicubic:
            return false;
        default:
            return true;
    }
}

// The position of output u if the axis were not flipped.
int unflipped(const Axis& axis, int u) { return axis.flip ? axis.size - 1 - u : u; }

struct Pair {
    int near, far;  // samples, within the plane
    double far_share;
};

Pair pair_of(const Axis& axis, int u) {
    const double center = axis.start + (unflipped(axis, u) + .5) * axis.extent / axis.size;
    const bool interpolates = axis.filter != Filter::nearest;
    const double inside = std::clamp(interpolates ? center - .5 : center, 0., double(axis.source - 1));
    const int near = int(inside);
    return interpolates ? Pair{near, std::min(near + 1, axis.source - 1), inside - near} : Pair{near, near, 0};
}

double triangle(double distance) { return std::max(0., 1 - distance); }

// Keys, "Cubic convolution interpolation for digital image processing" (1981), equation 15, with a = -.5.
double cubic(double distance) {
    constexpr double a = -.5;
    if (distance < 1) return ((a + 2) * distance - (a + 3)) * distance * distance + 1;
    return distance < 2 ? ((distance - 5) * distance + 8) * distance * a - 4 * a : 0;
}

// The filter around each output: `taps` weights from sample `first` on. All taps lie within the plane.
struct Windows {
    int taps;
    std::vector<int> first;
    std::vector<double> weights;  // (output, taps), summing to 1
};

Windows windows_of(const Axis& axis) {
    const bool bicubic = axis.filter == Filter::bicubic;
    const double step = axis.extent / axis.size, scale = std::max(step, 1.), radius = bicubic ? 2 * scale : scale;
    const int taps = int(std::min(std::ceil(2 * radius), double(axis.source)));
    Windows windows{taps, std::vector<int>(axis.size), std::vector<double>(size_t(axis.size) * taps)};
    for (int u = 0; u < axis.size; ++u) {
        const double center = std::clamp(axis.start + (unflipped(axis, u) + .5) * step, 0., double(axis.source));
        const int begin = int(std::clamp(center - radius + .5, 0., axis.source - 1.));
        const int last = std::min(begin + taps, axis.source);  // rounding may let one more in, of no weight
        const int end = std::max(begin + 1, std::min(int(center + radius + .5), last));
        windows.first[u] = std::min(begin, axis.source - taps);
        double* const weights = &windows.weights[size_t(u) * taps];
        double sum = 0;
        for (int i = begin; i < end; ++i) {
            const double distance = std::abs(i + .5 - center) / scale;
            sum += weights[i - windows.first[u]] = bicubic ? cubic(distance) : triangle(distance);
        }
        if (sum <= 0) weights[begin - windows.first[u]] = sum = 1;
        for (int k = 0; k < taps; ++k) weights[k] /= sum;
    }
    return windows;
}

// Rounds weights that sum to 1 to units of 1/one. The largest weight takes the rounding error.
void quantise(const double* weights, int taps, int one, int16_t* out) {
    int left = one;
    for (int k = 0; k < taps; ++k) left -= nearest(weights[k] * one);
    const int largest = int(std::max_element(weights, weights + taps) - weights);
    for (int k = 0; k < taps; ++k)
        out[k] = int16_t(std::min(nearest(weights[k] * one) + (k == largest ? left : 0), 32767));
}

// Returns false if the samples of a block lie too far apart.
bool index_pairs(const std::vector<Pair>& pairs, size_t block, std::vector<int32_t>& base, std::vector<uint8_t>& index) {
    uint8_t* out = index.data();
    for (size_t b = 0; b * block < pairs.size(); ++b) {
        const size_t begin = b * block, end = std::min(begin + block, pairs.size());
        const Pair &one = pairs[begin], &other = pairs[end - 1];  // positions are monotonic
        const int lowest = base[b] = std::min(one.near, other.near);
        if (size_t(std::max(one.far, other.far) - lowest) >= 2 * block) return false;
        for (const Pair *pair = &one, *last = pair + (end - begin); pair < last; ++pair) {
            *out++ = uint8_t(pair->near - lowest);
            *out++ = uint8_t(pair->far - lowest);
        }
    }
    return true;
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

void index_groups(HorizontalTable& table) {
    std::fill(table.start.begin() + table.axis.size, table.start.end(), table.start[table.axis.size - 1]);
    table.shuffles4 = index_shuffles(table.start, 4, table.base4, table.index4);
    table.shuffles16 = index_shuffles(table.start, 16, table.base16, table.index16);
}

// Pairs that lie too far apart for a shuffle, as the first two of four taps.
void fill_distant_pairs(HorizontalTable& table, const std::vector<Pair>& pairs) {
    const int size = table.axis.size, padded = rounded_up(size, 16);
    table.taps = 4;
    table.start.assign(padded, 0);
    table.weights.assign(size_t(4) * padded, 0);
    table.norm.assign(padded, 1);
    for (int u = 0; u < size; ++u) {
        table.start[u] = pairs[u].near;
        std::copy_n(&table.weight[2 * u], 2, &table.weights[4 * u]);
    }
    index_groups(table);
}

void fill_pairs(HorizontalTable& table) {
    const Axis& axis = table.axis;
    const int padded = rounded_up(axis.size, 32);
    table.taps = 2;
    table.base8.assign(padded / 8, 0);
    table.base32.assign(padded / 32, 0);
    table.index8.assign(2 * padded, 0);
    table.index32.assign(2 * padded, 0);
    table.weight.assign(2 * padded, 0);
    std::vector<Pair> pairs(axis.size);
    for (int u = 0; u < axis.size; ++u) pairs[u] = pair_of(axis, u);
    uint8_t* weight = table.weight.data();
    for (const Pair& pair : pairs) {
        const int far_weight = nearest(pair.far_share * 255);
        *weight++ = uint8_t(255 - far_weight);
        *weight++ = uint8_t(far_weight);
    }
    if (!index_pairs(pairs, 8, table.base8, table.index8) || !index_pairs(pairs, 32, table.base32, table.index32))
        fill_distant_pairs(table, pairs);
}

void fill_triangles(HorizontalTable& table) {
    const Axis& axis = table.axis;
    const Windows windows = windows_of(axis);
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
    index_groups(table);
}

// Bicubic, unless it shrinks.
void fill_four(HorizontalTable& table) {
    const Axis& axis = table.axis;
    const Windows windows = windows_of(axis);
    const int padded = rounded_up(axis.size, 32);
    table.taps = 4;
    table.four_weights.assign(size_t(4) * padded, 0);
    for (int u = 0; u < axis.size; ++u) {
        int16_t weights[4] = {};
        quantise(&windows.weights[size_t(u) * windows.taps], windows.taps, four_taps_one, weights);
        for (int k = 0; k < 4; ++k) table.four_weights[size_t(u / 32) * 128 + k * 32 + u % 32] = weights[k];
    }
    auto fill = [&](int block, std::vector<int32_t>& base, std::vector<uint8_t>& index) {
        base.assign(padded / block, 0);
        index.assign(2 * padded, 128);
        for (int u = 0; u < axis.size; ++u) {
            const int begin = u / block * block, end = std::min(begin + block, axis.size);
            base[u / block] = std::min(windows.first[begin], windows.first[end - 1]);  // positions are monotonic
            index[2 * u + 1] = uint8_t(windows.first[u] - base[u / block]);
        }
    };
    fill(8, table.base8, table.index8);
    fill(32, table.base32, table.index32);
}

void fill_cubics(HorizontalTable& table) {
    constexpr double most = 4e6;  // about the sum of an output's weights: 255 times their magnitudes fit 32 bits
    const Axis& axis = table.axis;
    const Windows windows = windows_of(axis);
    const int padded = rounded_up(axis.size, 16), groups = rounded_up(windows.taps, 4) / 4;
    table.taps = 4 * groups;
    table.start.assign(padded, 0);
    table.signed_weights.assign(size_t(4) * groups * padded, 0);
    table.bias.assign(padded, 0);
    table.norm.assign(padded, 0);
    for (int u = 0; u < axis.size; ++u) {
        const double* weights = &windows.weights[size_t(u) * windows.taps];
        const double unit = std::min(32767 / *std::max_element(weights, weights + windows.taps), most);
        int16_t* const first = &table.signed_weights[size_t(u / 16) * groups * 64 + u % 16 * 2];
        int sum = 0;
        for (int k = 0; k < windows.taps; ++k) {
            const int weight = nearest(weights[k] * unit);
            first[k / 4 * 64 + k % 2 * 32 + k % 4 / 2] = int16_t(weight);
            sum += weight;
        }
        table.start[u] = windows.first[u];
        table.bias[u] = -128 * sum;
        table.norm[u] = 255.f / float(sum);
    }
    index_groups(table);
}

template <class Table, class Make>
std::shared_ptr<const Table> cached(std::shared_ptr<const Table>* slots, int count, const Axis& axis, Make make) {
    const std::hash<double> hash;
    const size_t key = hash(axis.start) * 31 + hash(axis.extent) * 17 + size_t(axis.source) * 131 +
                       size_t(axis.size) * 2654435761u + axis.flip + 2 * size_t(axis.filter);
    std::shared_ptr<const Table>& slot = slots[(key ^ key >> 17) % count];
    if (!slot || !(slot->axis == axis)) slot = std::make_shared<const Table>(make(axis));
    return slot;
}

}  // namespace

HorizontalTable horizontal_table(const Axis& axis) {
    HorizontalTable table{};
    table.axis = axis;
    if (takes_pairs(axis))
        fill_pairs(table);
    else if (axis.filter != Filter::bicubic)
        fill_triangles(table);
    else
        axis.extent <= axis.size ? fill_four(table) : fill_cubics(table);
    return table;
}

VerticalTable vertical_table(const Axis& axis) {
    const int one = 32768 / blended_scale(axis.filter);
    VerticalTable table{axis, axis.filter == Filter::nearest ? 1 : 2, std::vector<int32_t>(axis.size), {}};
    if (takes_pairs(axis)) {
        table.weight.resize(size_t(table.taps) * axis.size);
        for (int u = 0; u < axis.size; ++u) {
            const Pair pair = pair_of(axis, u);
            const double weights[2] = {1 - pair.far_share, pair.far_share};
            table.first[u] = pair.near;
            quantise(weights, table.taps, one, &table.weight[size_t(u) * table.taps]);
        }
        return table;
    }
    const Windows windows = windows_of(axis);
    table.taps = windows.taps;
    table.first.assign(windows.first.begin(), windows.first.end());
    table.weight.resize(size_t(windows.taps) * axis.size);
    for (int u = 0; u < axis.size; ++u)
        quantise(&windows.weights[size_t(u) * windows.taps], windows.taps, one,
                 &table.weight[size_t(u) * windows.taps]);
    return table;
}

std::shared_ptr<const HorizontalTable> TableCache::horizontal(const Axis& axis) {
    return cached(horizontal_, slots, axis, horizontal_table);
}

std::shared_ptr<const VerticalTable> TableCache::vertical(const Axis& axis) {
    return cached(vertical_, slots, axis, vertical_table);
}

}  // namespace fastload

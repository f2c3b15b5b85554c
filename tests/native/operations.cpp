// Run under sanitizers with a number and a seed: pools and suppresses so many random batches, with boxes of all kinds,
// from and into memory of exactly their size. Prints "done".
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "nms.h"
#include "roi_align.h"

using namespace fastload;

namespace {

std::mt19937 rng;

size_t uniform(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(rng); }

float coordinate() {
    constexpr float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    constexpr float odd[] = {0,      -0.f,   nan,    inf,         -inf,         3e38f,        -3e38f,
                             1e-40f, 1e-30f, 1 << 24, -(1 << 24), 16777217.f, 2147483648.f, -1e10f};
    if (uniform(0, 19) == 0) return odd[uniform(0, std::size(odd) - 1)];
    const float within = float(uniform(0, 4000)) / 10 - 100;
    return uniform(0, 9) ? within : within * 1e4f;
}

std::vector<float> boxes_of(size_t count) {
    std::vector<float> boxes(4 * count);
    for (float& value : boxes) value = coordinate();
    for (size_t i = 0; i < count; ++i)  // most have an inside
        if (uniform(0, 3))
            for (size_t k = 0; k < 2; ++k)
                if (boxes[4 * i + k] > boxes[4 * i + k + 2]) std::swap(boxes[4 * i + k], boxes[4 * i + k + 2]);
    return boxes;
}

void pool() {
    const size_t batch = uniform(0, 3), count = uniform(0, 5), channels = uniform(0, 9) * uniform(1, 20);
    const int size = int(uniform(1, 8)), samples = int(uniform(0, 4));
    const std::vector<float> boxes = boxes_of(batch * count);
    const std::unique_ptr<bool[]> valid(new bool[batch * count]);
    for (size_t i = 0; i < batch * count; ++i) valid[i] = uniform(0, 5);
    const Regions regions{boxes.data(), valid.get(), batch, count, channels, size, samples};

    std::vector<std::vector<float>> features;
    std::vector<Level<const float>> levels;
    std::vector<Level<float>> gradients;
    int stride = 1 << uniform(0, 5);
    for (size_t n = uniform(1, 3); n; --n, stride *= 2) {
        const size_t height = uniform(1, 20), width = uniform(1, 20);
        features.emplace_back(batch * height * width * channels, 1.f);
        levels.push_back({features.back().data(), height, width, stride});
        gradients.push_back({features.back().data(), height, width, stride});
    }
    const size_t threads = uniform(1, 4);
    std::vector<float> out(batch * count * size_t(size * size) * channels, -1);
    roi_align(levels, regions, threads, out.data());
    for (const float value : out)
        if (!(value >= 0 && value < 1.0001f)) {  // means of ones and zeros
            std::fprintf(stderr, "a mean of %g\n", value);
            std::exit(1);
        }
    roi_align_backward(gradients, regions, out.data(), threads);
}

void suppress() {
    const size_t n = uniform(0, 600), limit = uniform(0, n);
    const std::vector<float> boxes = boxes_of(n);
    std::vector<float> scores(n);
    for (float& score : scores) score = coordinate();
    std::vector<std::int64_t> labels(n), kept(limit);
    for (std::int64_t& label : labels) label = uniform(0, 9) ? std::int64_t(uniform(0, 2)) : INT64_MIN + std::int64_t(uniform(0, 3));
    const double thresholds[] = {-1, 0, .1, .31, .5, .9, .99, 1, 2, std::numeric_limits<double>::quiet_NaN()};
    const size_t found = nms(boxes.data(), scores.data(), labels.data(), n, thresholds[uniform(0, 9)], limit, kept.data());
    for (size_t i = 0; i < found; ++i)
        if (kept.at(i) < 0 || size_t(kept[i]) >= n) std::exit(1);
}

}  // namespace

int main(int, char** argv) {
    rng.seed(uint32_t(std::strtoul(argv[2], nullptr, 10)));
    for (long round = std::strtol(argv[1], nullptr, 10); round > 0; --round) {
        pool();
        suppress();
    }
    std::puts("done");
}

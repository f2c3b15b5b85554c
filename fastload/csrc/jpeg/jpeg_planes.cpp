#include "jpeg_planes.h"

#include <algorithm>
#include <array>
#include <climits>
#include <cstdlib>

#include "dct_blocks.h"
#include "turbojpeg.h"

namespace fastload {
namespace {

constexpr std::array<uint8_t, 64> zigzag_to_transform = [] {
    std::array<uint8_t, 64> order{};
    for (size_t k = 0; k < 64; ++k) order[k] = natural_to_transform[zigzag_to_natural[k]];
    return order;
}();

// Blocks and steps in transform order.
bool beyond_any_image(const int16_t* block, const uint16_t* quant) {
    int64_t sum[8] = {};
    for (size_t i = 0; i < 64; ++i) {
        const size_t place = natural_to_transform[i];
        sum[i & 7] += int64_t(std::abs(block[place])) * quant[place];
    }
    return std::max({sum[0] + sum[4], sum[1] + sum[5], sum[3] + sum[7], sum[2], sum[6]}) > column_limit;
}

class PlanesSink final : public BlockSink {
public:
    PlanesSink(const Kernels& kernels, const Region& region, Buffer& buffer, Planes& planes)
        : kernels_(kernels), region_(region), buffer_(buffer), planes_(planes) {}

    const uint8_t* order() const override { return zigzag_to_transform.data(); }

    void begin(const JpegCoefficients& image) override {
        planes_ = {{}, int(image.components.size()), image.width, image.height, image.subsampling, false};
        lay_out(planes_, region_, buffer_, windows_);
    }

    int rows(size_t number) const override { return windows_[number].bottom; }

    void begin_component(size_t number, const JpegComponent& component) override {
        for (size_t i = 0; i < 64; ++i) {
            if (component.quant[i] > largest_step) throw JpegError("a quantisation step beyond those of 8 bits");
            quant_[number][natural_to_transform[i]] = component.quant[i];
        }
    }

    void put(size_t number, int y, int x, int count, const int16_t* blocks) override {
        const BlockWindow& window = windows_[number];
        const int left = std::max(x, window.left), right = std::min(x + count, window.right);
        if (y < window.top || y >= window.bottom || left >= right) return;
        const uint16_t* const quant = quant_[number];
        blocks += (left - x) * 64;
        const int worst =
            kernels_.inverse_dct(blocks, right - left, quant, window.size, window.block(left, y), window.stride);
        if (2 * worst <= column_limit) return;
        for (int i = 0; i < right - left; ++i)
            if (beyond_any_image(blocks + i * 64, quant))
                throw JpegError("coefficients beyond those of any image of 8 bits");
    }

private:
    const Kernels& kernels_;
    const Region& region_;
    Buffer& buffer_;
    Planes& planes_;
    BlockWindow windows_[3] = {};
    uint16_t quant_[3][64] = {};
};

class NoSink final : public BlockSink {
public:
    const uint8_t* order() const override { return zigzag_to_transform.data(); }
    void begin(const JpegCoefficients&) override {}
    int rows(size_t) const override { return INT_MAX; }
    void begin_component(size_t, const JpegComponent&) override {}
    void put(size_t, int, int, int, const int16_t*) override {}
};

}  // namespace

void JpegPlanesDecoder::planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes,
                               const Region& region) {
    PlanesSink sink(kernels_, region, buffer, planes);
    planes.rgb = parser_.parse(data, size, sink).rgb;
}

void JpegPlanesDecoder::coefficients_only(const uint8_t* data, size_t size) {
    NoSink sink;
    parser_.parse(data, size, sink);
}

}  // namespace fastload

// The samples of a canvas: bytes, or (byte - mean) / std as float32, bfloat16 or float16, with the mean and std of the
// channel. Either the channels of a pixel are adjacent (channels_last) or the pixels of a channel are (planar).
//
// The difference and the quotient are rounded to float32 and the result to the sample's type, each to nearest even, as
// in torch's (image.float() - mean) / std. There are only 3 * 256 inputs, so tables specify the result of every kernel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace fastload {

enum class Sample : int { u8, f32, bf16, f16 };
constexpr int sample_kinds = 4;

// The channels in a row of samples: one of them, or all in turn.
enum class Channels : int { red, green, blue, all };

class PixelFormat {
public:
    static constexpr int cycle = 48 + 2;  // enough for three vectors of 16, starting at any channel

    // Packed RGB bytes.
    PixelFormat() : PixelFormat(Sample::u8, false, {0, 0, 0}, {1, 1, 1}) {}
    // Throws std::invalid_argument unless means are finite and deviations are finite and above 0.
    PixelFormat(Sample sample, bool planar, const std::array<float, 3>& mean, const std::array<float, 3>& std);

    bool is_packed_bytes() const { return sample == Sample::u8 && !planar; }
    size_t sample_bytes() const { return sample == Sample::u8 ? 1 : sample == Sample::f32 ? 4 : 2; }

    const Sample sample;
    const bool planar;
    // How kernels compute a sample from x = byte - mean: the first way that gives the tables' bits for every byte.
    //   product: x * reciprocal, rounded to 16 bits (for bfloat16 with ties away from zero)
    //   corrected: q + (x - q * std) * reciprocal with q = x * reciprocal; fails only for extreme constants
    //   table: look it up
    enum class Way { product, corrected, table };
    Way way = Way::table;
    float mean[cycle], std[cycle], reciprocal[cycle];  // red, green, blue, red, ...
    uint32_t table[3][256];                            // bits of the sample
};

// The default format, shared by most canvases.
const std::shared_ptr<const PixelFormat>& packed_bytes();

// The specification of Kernels::convert, for the samples from `begin` to `end`.
void convert_by_table(const uint8_t* bytes, size_t begin, size_t end, const PixelFormat& format, Channels channels,
                      uint8_t* out);

}  // namespace fastload

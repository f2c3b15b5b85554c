// What a canvas holds: bytes, or (byte - mean) / std of the byte's channel as float32, bfloat16 or float16; its pixels one
// after another (channels_last) or its channels.
//
// The difference is rounded to float32, then the quotient, then that to the sample's type, each to nearest even: torch's
// (image.float() - mean) / std. There are but 3 * 256 inputs, so tables say what every kernel has to give.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace fastload {

enum class Sample : int { u8, f32, bf16, f16 };
constexpr int sample_kinds = 4;

// Which channels a row of samples is of: one of them, or all of them in turn.
enum class Channels : int { red, green, blue, all };

class PixelFormat {
public:
    static constexpr int cycle = 48 + 2;  // enough for three vectors of 16 from any channel on

    // Packed RGB bytes.
    PixelFormat() : PixelFormat(Sample::u8, false, {0, 0, 0}, {1, 1, 1}) {}
    // Throws std::invalid_argument unless means are finite and deviations are finite and above 0.
    PixelFormat(Sample sample, bool planar, const std::array<float, 3>& mean, const std::array<float, 3>& std);

    bool is_packed_bytes() const { return sample == Sample::u8 && !planar; }
    size_t sample_bytes() const { return sample == Sample::u8 ? 1 : sample == Sample::f32 ? 4 : 2; }

    const Sample sample;
    const bool planar;
    // By which of these a kernel gets the tables' bits from x = byte - mean. The first that always does is taken.
    //   product: x * reciprocal, rounded to 16 bits, where its error rarely shows; as bfloat16 with ties away from zero
    //   corrected: q + (x - q * std) * reciprocal, q = x * reciprocal: the quotient unless constants are beyond reason
    //   table
    enum class Way { product, corrected, table };
    Way way = Way::table;
    float mean[cycle], std[cycle], reciprocal[cycle];  // red, green, blue, red, ...
    uint32_t table[3][256];                            // bits of the sample
};

// The one that most canvases share.
const std::shared_ptr<const PixelFormat>& packed_bytes();

// The specification of Kernels::convert, for the samples from `begin` to `end`.
void convert_by_table(const uint8_t* bytes, size_t begin, size_t end, const PixelFormat& format, Channels channels,
                      uint8_t* out);

}  // namespace fastload

// Resampling along one axis: the source samples of each output and their weights.
//
// Output u is centered at start + (u + .5) * extent / size in the source. The filters are
//     bilinear: enlarging interpolates between the two nearest samples. Shrinking uses a triangle whose radius is the
//         scale, like Pillow's antialiased BILINEAR.
//     bilinear without antialiasing: interpolates between the two nearest samples also when shrinking.
//     nearest: the sample that contains the center.
//     bicubic: Keys' cubic with a = -.5, whose radius is 2 and twice the scale when shrinking, like Pillow's BICUBIC.
// At the edges of the plane, interpolation repeats the outermost sample; the triangle and the cubic are normalized over
// the samples within the plane.
//
// All kernels use the same fixed point. Samples are centered (minus 128) and resampled horizontally to int16 in units
// of 1/255 level, clipped to 0 to 255; rows are then blended with weights in units of 1/32768. Bicubic has weights
// above 1 and sums beyond the range of a byte, so its rows are blended with half of these weights.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "filter.h"

namespace fastload {

// By how much the color matrix has to multiply the blended rows of a filter.
constexpr int blended_scale(Filter filter) { return filter == Filter::bicubic ? 2 : 1; }

struct Axis {
    double start, extent;  // the source interval, in samples of the plane
    int source;            // number of samples
    int size;              // number of outputs
    bool flip;             // whether outputs are in reverse order
    Filter filter = Filter::bilinear;
    bool operator==(const Axis& other) const {
        return start == other.start && extent == other.extent && source == other.source && size == other.size &&
               flip == other.flip && filter == other.filter;
    }
};

// With two taps, outputs are in blocks of 8, and the samples of a block lie within 16 bytes of its base; in blocks of
// 32, within 64 bytes. With more taps, and where two taps lie farther apart, the weights are in blocks of 16 outputs
// and groups of 4 taps.
struct HorizontalTable {
    Axis axis;
    int taps;  // 2, or a multiple of 4

    // two taps
    std::vector<int32_t> base8;   // of each block of 8
    std::vector<uint8_t> index8;  // (block, 8, 2) bytes relative to base8
    std::vector<int32_t> base32;  // of each block of 32
    std::vector<uint8_t> index32; // (block, 32, 2) bytes relative to base32
    std::vector<uint8_t> weight;  // (output, 2), summing to 255

    // Four taps, which are next to each other: `base8` and `base32`; in `index8` and `index32`, 128 and the first tap.
    std::vector<int16_t> four_weights;  // (block of 32, tap, 32), summing to four_taps_one; else empty

    // more taps
    std::vector<int32_t> start;   // first sample of each output
    std::vector<uint8_t> weights; // (block, group, 16, 4); empty if weights are signed
    std::vector<float> norm;      // 255 / sum of the output's weights
    // Signed weights: taps 0 and 2 of a group, then taps 1 and 3.
    std::vector<int16_t> signed_weights;  // (block, group, 2, 16, 2)
    std::vector<int32_t> bias;            // -128 * sum of the output's weights: samples are not centered
    // For shuffles that gather four taps of several adjacent outputs at once: bytes relative to the lowest start of
    // them.
    std::vector<int32_t> base4, base16;    // of 4 and of 16 outputs
    std::vector<uint8_t> index4, index16;  // (output, 4)
    bool shuffles4, shuffles16;            // whether these lie within 16 and 64 bytes
};

struct VerticalTable {
    Axis axis;
    int taps;
    std::vector<int32_t> first;   // first source row of each output row
    std::vector<int16_t> weight;  // (output, taps), summing to 32768 / blended_scale; a 32768 is stored as 32767
};

HorizontalTable horizontal_table(const Axis& axis);
VerticalTable vertical_table(const Axis& axis);

// Keeps recent tables: the images of a dataset share few sizes.
class TableCache {
public:
    std::shared_ptr<const HorizontalTable> horizontal(const Axis& axis);
    std::shared_ptr<const VerticalTable> vertical(const Axis& axis);

private:
    static constexpr int slots = 64;
    std::shared_ptr<const HorizontalTable> horizontal_[slots];
    std::shared_ptr<const VerticalTable> vertical_[slots];
};

// The sum of an output's four weights. Products with samples in units of 1/256 are rounded to units of 1/127.5.
constexpr int four_taps_one = 255 * 64;

// The limits of samples after resampling horizontally.
constexpr int least_sample = -128 * 255, largest_sample = 127 * 255;

// RGB = matrix * (plane samples - 128) + offset, in 1/8 level: matrix in units of 255 / (8 * 32768).
struct ColorMatrix {
    int16_t plane[3][3];  // [channel][plane]
    int16_t offset[3];
};

// Whether a matrix is JFIF's, up to brightness and contrast: all channels have the same share of Y, red has none of Cb
// and blue none of Cr. No sum may saturate either. Then the share of Y is computed once for all channels, in any order.
inline bool shares_luma(const ColorMatrix& matrix) {
    const auto& m = matrix.plane;
    bool shares = m[0][1] == 0 && m[2][2] == 0;
    for (int c = 0; c < 3; ++c)
        shares = shares && m[c][0] == m[0][0] && matrix.offset[c] == matrix.offset[0] &&
                 std::abs(m[c][0]) + std::abs(m[c][1]) + std::abs(m[c][2]) + std::abs(matrix.offset[c]) <= 32767;
    return shares;
}

// The conversions of kernels. The first that applies is used, since it is the shortest.
enum class Colors { grey, ycbcr, any };

// int16 rows are padded to a multiple of this: kernels write whole blocks.
constexpr int row_padding = 64;

// A row of the output before color conversion: the weighted sum of `taps` rows of one plane.
struct WeightedRows {
    const int16_t* const* rows;
    const int16_t* weights;
    int taps;
    int16_t* sum;  // scratch memory for the result
};

// Kernels::blend in two passes: the weighted sums of rows, then the colors.
template <void vertical(const int16_t* const* rows, const int16_t* weights, int taps, int width, int16_t* out),
          void color(const int16_t* const planes[3], const ColorMatrix& matrix, int width, uint8_t* rgb)>
int vertical_then_color(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb,
                        uint8_t* /* canvas */) {
    const int16_t* sums[3] = {};
    for (int p = 0; p < count; ++p) {
        vertical(planes[p].rows, planes[p].weights, planes[p].taps, width, planes[p].sum);
        sums[p] = planes[p].sum;
    }
    color(sums, matrix, width, rgb);
    return 0;
}

}  // namespace fastload

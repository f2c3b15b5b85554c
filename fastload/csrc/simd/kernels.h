// The functions that exist once for each set of vector instructions, and the one way to choose among them.
//
// scalar.cpp is the specification, and all others give the same bits. Each of the other files has a complete table, so
// that a decoder or an image chooses once, and tests can select one set after the other.
//
// AVX2 and AVX-512 share the sources blend.h, colors.h, idct.h, samples.h and weighted_sum.h, which are written in the operations of
// vector_avx2.h and vector_avx512.h and compiled in avx2.cpp and in avx512.cpp. Functions are marked with their target
// one by one: in a file compiled with -mavx2, inline functions of the standard library would contain such instructions,
// and other files could link them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd.h"

namespace fastload {

class BitReader;
class PixelFormat;
enum class Channels : int;
enum class ScanFault : int;
struct BlockStreams;
struct BlockWindow;
struct ColorMatrix;
struct DctComponent;
struct HorizontalTable;
struct HsvChange;
struct LevelTable;
struct McuBlock;
struct PixelMatrix;
struct TapGrid;
struct Tile;
struct TilePath;
struct WeightedRows;

struct Kernels {
    // Resampling, see resample.h.
    // `row` (source samples, plane_slack readable beyond) -> `out` (axis.size int16, rounded up to row_padding)
    void (*horizontal)(const uint8_t* row, const HorizontalTable& table, int16_t* out);
    // weighted sums of the rows of three planes (or one) -> `width` packed RGB pixels, not a byte more. The first ones
    // may be stored past the CPU's caches to `canvas` instead, unless that is null: returns their number.
    int (*blend)(const WeightedRows* planes, int count, const ColorMatrix& matrix, int width, uint8_t* rgb,
                 uint8_t* canvas);
    // copies past the CPU's caches, for memory that is read elsewhere
    void (*stream)(uint8_t* to, const uint8_t* from, size_t size);

    // Changes of `pixels` packed RGB pixels in place, see color_change.h.
    void (*recolor)(uint8_t* rgb, size_t pixels, const PixelMatrix& matrix);
    void (*adjust_hsv)(uint8_t* rgb, size_t pixels, const HsvChange& change);
    void (*look_up)(uint8_t* rgb, size_t pixels, const LevelTable& table);

    // Drawing over pixels, see tile.h.
    // Interpolates `count` points of a tile bilinearly -> packed RGB pixels, not a byte more. Fractions have 8 bits.
    void (*warp)(const Tile& tile, const TilePath& path, int count, uint8_t* rgb);
    // under = (over * alpha + under * (256 - alpha) + 128) >> 8, with alpha from 0 to 256
    void (*mix)(const uint8_t* over, int alpha, size_t size, uint8_t* under);

    // A canvas's format, see pixel_format.h.
    // `width` packed RGB pixels -> a row of each channel, not a byte more
    void (*split)(const uint8_t* rgb, int width, uint8_t* const channel[3]);
    // `count` bytes, starting with red if they are of all channels -> samples of more than a byte, stored past the
    // CPU's caches
    void (*convert)(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out);

    // The inverse DCT, see dct_blocks.h.
    // Decodes the blocks of a window (region.h) among the first `rows` block rows of a component, and passes over the
    // others of them. Blocks beyond the last of a row, up to a multiple of four, are written too. `scratch`:
    // row_scratch bytes.
    void (*decode_blocks)(BlockStreams& streams, const DctComponent& component, const BlockWindow& window, int rows,
                          uint8_t* scratch);
    // The inverse DCT alone, of `count` adjacent blocks, to `size` x `size` samples each, at out[stride * y + x].
    // Coefficients and steps are in transform order. Blocks beyond the last, up to a multiple of four, are read and
    // written too. Returns the largest sum of magnitudes of dequantized coefficients over a column, or over its first
    // four rows if `size` is less than 8; it is valid if no step exceeds largest_step.
    int (*inverse_dct)(const int16_t* blocks, int count, const uint16_t* quant, int size, uint8_t* out,
                       ptrdiff_t stride);
    // Negates values[i] if bit i of signs is set. 64 bytes past both may be read, and past `values` written.
    void (*apply_signs)(uint8_t* values, const uint8_t* signs, size_t count);
    // The number of bits set in `count` bytes.
    size_t (*set_bits)(const uint8_t* bytes, size_t count);

    // Pooling of features, see roi_align.h.
    // Sums of `channels` floats over a grid of taps around `from`, in the order of its rows. Each product is added with
    // one rounding. With `add`, the sums begin with what `out` has.
    void (*weighted_sum)(const float* from, const TapGrid& taps, size_t channels, bool add, float* out);

    // Entropy coding: one source each, compiled with and without bit-manipulation instructions.
    // huffman.h
    void (*huffman_decode)(const uint8_t* coded, size_t size, uint8_t* symbols, size_t count, size_t wanted);
    // jpeg_scan.h: MCUs `first` to `end`, each of `count` blocks
    ScanFault (*decode_mcus)(BitReader& reader, const McuBlock* blocks, size_t count, int first, int end,
                             const uint8_t* order);
};

// The kernels of the level in use.
const Kernels& kernels();

// The kernels of one of this machine's levels.
const Kernels& kernels_of(Simd level);

extern const Kernels scalar_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace fastload

// A canvas's format; scalar.cpp says what they compute.
#pragma once

namespace fastload {
namespace {

// From which byte of 192 each byte of 64 of a channel comes: of the first two vectors, or of the third.
struct Split {
    alignas(64) uint8_t from[3][64];
    uint64_t is_third[3];
};
constexpr Split places = [] {
    Split split{};
    for (int c = 0; c < 3; ++c)
        for (int u = 0; u < 64; ++u) {
            const int byte = 3 * u + c;
            split.from[c][u] = uint8_t(byte % 128);
            split.is_third[c] |= uint64_t(byte >= 128) << u;
        }
    return split;
}();

TARGET void split(const uint8_t* rgb, int width, uint8_t* const channel[3]) {
    for (int u = 0; u < width; u += 64) {
        const int left = 3 * (width - u);
        __m512i bytes[3];
        for (int k = 0; k < 3; ++k) {
            const int count = std::clamp(left - 64 * k, 0, 64);
            bytes[k] = _mm512_maskz_loadu_epi8(count == 64 ? ~__mmask64{0} : (__mmask64{1} << count) - 1,
                                               rgb + 3 * u + std::min(64 * k, left));
        }
        const __mmask64 kept = width - u >= 64 ? ~__mmask64{0} : (__mmask64{1} << (width - u)) - 1;
        for (int c = 0; c < 3; ++c) {
            const __m512i from = _mm512_load_si512(places.from[c]);
            const __m512i first = _mm512_permutex2var_epi8(bytes[0], from, bytes[1]);
            _mm512_mask_storeu_epi8(channel[c] + u, kept,
                                    _mm512_mask_permutexvar_epi8(first, places.is_third[c], from, bytes[2]));
        }
    }
}

// Three vectors in turn of the constants of samples, the first of them of channel `first`.
struct Constants {
    TARGET Constants(const PixelFormat& format, Channels channels, size_t first) {
        for (int k = 0; k < 3; ++k) {
            const bool all = channels == Channels::all;
            const size_t i = all ? first + 16 * size_t(k) : size_t(channels);
            mean[k] = all ? _mm512_loadu_ps(format.mean + i) : _mm512_set1_ps(format.mean[i]);
            std[k] = all ? _mm512_loadu_ps(format.std + i) : _mm512_set1_ps(format.std[i]);
            reciprocal[k] = all ? _mm512_loadu_ps(format.reciprocal + i) : _mm512_set1_ps(format.reciprocal[i]);
        }
    }
    __m512 mean[3], std[3], reciprocal[3];
};

// Sixteen quotients.
template <int k, bool product>
TARGET inline __m512 quotients(const uint8_t* bytes, const Constants& constants) {
    const __m512i levels = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
    const __m512 x = _mm512_sub_ps(_mm512_cvtepi32_ps(levels), constants.mean[k]);
    const __m512 q = _mm512_mul_ps(x, constants.reciprocal[k]);
    if constexpr (product) return q;
    return _mm512_fmadd_ps(_mm512_fnmadd_ps(q, constants.std[k], x), constants.reciprocal[k], q);
}

// The upper half of each sum is its bfloat16.
template <bool product>
TARGET inline __m512i rounded(__m512 values) {
    const __m512i bits = _mm512_castps_si512(values);
    if constexpr (product) return _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
}

struct UpperHalves {
    alignas(64) uint16_t word[32];
};
constexpr UpperHalves upper_halves = [] {
    UpperHalves halves{};
    for (int i = 0; i < 32; ++i) halves.word[i] = uint16_t(2 * i + 1);
    return halves;
}();

// A vector of samples, the number `place` of a sequence of three.
template <Sample sample, int place, bool product>
TARGET inline void store(const uint8_t* bytes, const Constants& constants, uint8_t* out) {
    __m512i samples;
    if constexpr (sample == Sample::f32) {
        samples = _mm512_castps_si512(quotients<place, product>(bytes, constants));
    } else {
        const __m512 low = quotients<2 * place % 3, product>(bytes, constants);
        const __m512 high = quotients<(2 * place + 1) % 3, product>(bytes + 16, constants);
        if constexpr (sample == Sample::bf16)
            samples = _mm512_permutex2var_epi16(rounded<product>(low), _mm512_load_si512(upper_halves.word),
                                                rounded<product>(high));
        else
            samples = _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
                                         _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
    }
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out), samples);
}

template <Sample sample, bool product>
TARGET void convert_to(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    constexpr size_t size = sample == Sample::f32 ? 4 : 2, step = 64 / size;
    size_t i = std::min(size_t(-reinterpret_cast<uintptr_t>(out) & 63) / size, count);
    convert_by_table(bytes, 0, i, format, channels, out);
    const Constants constants(format, channels, i % 3);
    for (; i + 3 * step <= count; i += 3 * step) {
        store<sample, 0, product>(bytes + i, constants, out + size * i);
        store<sample, 1, product>(bytes + i + step, constants, out + size * (i + step));
        store<sample, 2, product>(bytes + i + 2 * step, constants, out + size * (i + 2 * step));
    }
    if (i + step <= count) store<sample, 0, product>(bytes + i, constants, out + size * i), i += step;
    if (i + step <= count) store<sample, 1, product>(bytes + i, constants, out + size * i), i += step;
    convert_by_table(bytes, i, count, format, channels, out);
}

template <bool product>
void convert_by(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    switch (format.sample) {
        case Sample::f32:
            return convert_to<Sample::f32, false>(bytes, count, format, channels, out);
        case Sample::bf16:
            return convert_to<Sample::bf16, product>(bytes, count, format, channels, out);
        default:
            return convert_to<Sample::f16, product>(bytes, count, format, channels, out);
    }
}

void convert(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    if (format.way == PixelFormat::Way::table || reinterpret_cast<uintptr_t>(out) % format.sample_bytes())
        return convert_by_table(bytes, 0, count, format, channels, out);
    format.way == PixelFormat::Way::product ? convert_by<true>(bytes, count, format, channels, out)
                                            : convert_by<false>(bytes, count, format, channels, out);
}

}  // namespace
}  // namespace fastload

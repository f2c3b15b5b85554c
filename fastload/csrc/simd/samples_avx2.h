// A canvas's format; scalar.cpp says what they compute.
#pragma once

namespace fastload {
namespace {

// Which of the three 16-byte parts of 16 pixels has each byte of a channel, and where: both lanes alike.
struct Split {
    alignas(32) uint8_t from[3][3][32];  // [channel][part]
};
constexpr Split places = [] {
    Split split{};
    for (int c = 0; c < 3; ++c)
        for (int part = 0; part < 3; ++part)
            for (int u = 0; u < 32; ++u) {
                const int byte = 3 * (u % 16) + c;
                split.from[c][part][u] = byte / 16 == part ? uint8_t(byte % 16) : 0x80;
            }
    return split;
}();

TARGET inline __m256i load_parts(const uint8_t* low, const uint8_t* high) {
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low));
    return _mm256_inserti128_si256(_mm256_castsi128_si256(first),
                                   _mm_loadu_si128(reinterpret_cast<const __m128i*>(high)), 1);
}

TARGET void split(const uint8_t* rgb, int width, uint8_t* const channel[3]) {
    const int whole = width / 32 * 32;
    for (int u = 0; u < whole; u += 32) {
        __m256i parts[3];
        for (int k = 0; k < 3; ++k) parts[k] = load_parts(rgb + 3 * u + 16 * k, rgb + 3 * u + 48 + 16 * k);
        for (int c = 0; c < 3; ++c) {
            __m256i row = _mm256_setzero_si256();
            for (int k = 0; k < 3; ++k) {
                const auto from = _mm256_load_si256(reinterpret_cast<const __m256i*>(places.from[c][k]));
                row = _mm256_or_si256(row, _mm256_shuffle_epi8(parts[k], from));
            }
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(channel[c] + u), row);
        }
    }
    uint8_t* const rest[3] = {channel[0] + whole, channel[1] + whole, channel[2] + whole};
    scalar_kernels.split(rgb + 3 * whole, width - whole, rest);
}

// Three vectors in turn of the constants of samples, the first of them of channel `first`.
struct Constants {
    TARGET Constants(const PixelFormat& format, Channels channels, size_t first) {
        for (int k = 0; k < 3; ++k) {
            const bool all = channels == Channels::all;
            const size_t i = all ? first + 8 * size_t(k) : size_t(channels);
            mean[k] = all ? _mm256_loadu_ps(format.mean + i) : _mm256_set1_ps(format.mean[i]);
            std[k] = all ? _mm256_loadu_ps(format.std + i) : _mm256_set1_ps(format.std[i]);
            reciprocal[k] = all ? _mm256_loadu_ps(format.reciprocal + i) : _mm256_set1_ps(format.reciprocal[i]);
        }
    }
    __m256 mean[3], std[3], reciprocal[3];
};

// Eight quotients.
template <int k, bool product>
TARGET inline __m256 quotients(const uint8_t* bytes, const Constants& constants) {
    const __m256i levels = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
    const __m256 x = _mm256_sub_ps(_mm256_cvtepi32_ps(levels), constants.mean[k]);
    const __m256 q = _mm256_mul_ps(x, constants.reciprocal[k]);
    if constexpr (product) return q;
    return _mm256_fmadd_ps(_mm256_fnmadd_ps(q, constants.std[k], x), constants.reciprocal[k], q);
}

// Each as bfloat16, in the lower half of its 32 bits.
template <bool product>
TARGET inline __m256i rounded(__m256 values) {
    const __m256i bits = _mm256_castps_si256(values);
    if constexpr (product) return _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x8000)), 16);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
}

// A vector of samples, the number `place` of a sequence of three.
template <Sample sample, int place, bool product>
TARGET inline void store(const uint8_t* bytes, const Constants& constants, uint8_t* out) {
    __m256i samples;
    if constexpr (sample == Sample::f32) {
        samples = _mm256_castps_si256(quotients<place, product>(bytes, constants));
    } else {
        const __m256 low = quotients<2 * place % 3, product>(bytes, constants);
        const __m256 high = quotients<(2 * place + 1) % 3, product>(bytes + 8, constants);
        if constexpr (sample == Sample::bf16)
            samples = _mm256_permute4x64_epi64(
                _mm256_packus_epi32(rounded<product>(low), rounded<product>(high)), 0xD8);
        else
            samples = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
                                              _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
    }
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out), samples);
}

template <Sample sample, bool product>
TARGET void convert_to(const uint8_t* bytes, size_t count, const PixelFormat& format, Channels channels, uint8_t* out) {
    constexpr size_t size = sample == Sample::f32 ? 4 : 2, step = 32 / size;
    size_t i = std::min(size_t(-reinterpret_cast<uintptr_t>(out) & 31) / size, count);
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

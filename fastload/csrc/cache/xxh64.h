// XXH64, written from its published specification; tests compare it with the `xxhash` package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastload {
namespace xxh {

constexpr uint64_t prime1 = 0x9E3779B185EBCA87, prime2 = 0xC2B2AE3D27D4EB4F, prime3 = 0x165667B19E3779F9,
                   prime4 = 0x85EBCA77C2B2AE63, prime5 = 0x27D4EB2F165667C5;
constexpr size_t block = size_t{1} << 16;

inline uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

template <class Word>
Word load(const uint8_t* p) {
    Word word;
    std::memcpy(&word, p, sizeof word);  // little-endian machines only, like the whole format
    return word;
}

inline uint64_t round(uint64_t lane, uint64_t input) { return rotate(lane + input * prime2, 31) * prime1; }
inline uint64_t merge(uint64_t hash, uint64_t lane) { return (hash ^ round(0, lane)) * prime1 + prime4; }

}  // namespace xxh

// Calls `about_to_read` with the address of each block of 64 KiB before it reads it.
template <class AboutToRead>
uint64_t xxh64(const void* data, size_t size, uint64_t seed, AboutToRead about_to_read) {
    using namespace xxh;
    auto p = static_cast<const uint8_t*>(data);
    const uint8_t* const end = p + size;
    uint64_t hash = seed + prime5;
    if (size >= 32) {
        uint64_t a = seed + prime1 + prime2, b = seed + prime2, c = seed, d = seed - prime1;
        while (end - p >= 32) {
            about_to_read(p);
            const uint8_t* const stop = p + (size_t(end - p) < block ? size_t(end - p) / 32 * 32 : block);
            for (; p < stop; p += 32) {
                a = round(a, load<uint64_t>(p));
                b = round(b, load<uint64_t>(p + 8));
                c = round(c, load<uint64_t>(p + 16));
                d = round(d, load<uint64_t>(p + 24));
            }
        }
        hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
        hash = merge(merge(merge(merge(hash, a), b), c), d);
    }
    hash += size;
    for (; end - p >= 8; p += 8) hash = rotate(hash ^ round(0, load<uint64_t>(p)), 27) * prime1 + prime4;
    if (end - p >= 4) {
        hash = rotate(hash ^ load<uint32_t>(p) * prime1, 23) * prime2 + prime3;
        p += 4;
    }
    for (; p < end; ++p) hash = rotate(hash ^ *p * prime5, 11) * prime1;
    hash = (hash ^ hash >> 33) * prime2;
    hash = (hash ^ hash >> 29) * prime3;
    return hash ^ hash >> 32;
}

inline uint64_t xxh64(const void* data, size_t size, uint64_t seed = 0) {
    return xxh64(data, size, seed, [](const uint8_t*) {});
}

}  // namespace fastload

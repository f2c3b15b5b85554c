// Every way in which bytes from outside reach the core. Each gives an exception or a result, and results agree.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "jpeg_planes.h"
#include "jpeg_write.h"
#include "lmdb_tree.h"
#include "record.h"
#include "shown.h"
#include "xxh64.h"

namespace fastload {

using Bytes = std::vector<uint8_t>;

// Bytes on the heap, with nothing behind them: reading past the end is reported.
class Exact {
public:
    explicit Exact(const Bytes& bytes) : size(bytes.size()), memory_(new uint8_t[bytes.size()]) {
        std::copy(bytes.begin(), bytes.end(), memory_.get());
    }
    const uint8_t* data() const { return memory_.get(); }
    const size_t size;

private:
    std::unique_ptr<uint8_t[]> memory_;
};

inline void must(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "wrong: %s\n", what);
    std::abort();
}

inline Bytes samples(const Planes& planes) {
    Bytes all;
    for (int c = 0; c < planes.count; ++c)
        for (int y = 0; y < planes.plane[c].height; ++y) {
            const uint8_t* row = planes.plane[c].data + y * planes.plane[c].stride;
            all.insert(all.end(), row, row + planes.plane[c].width);
        }
    return all;
}

// The payload as a record whose checksum is right, so that it is the decoders that have to cope with it.
inline Bytes as_record(const Bytes& payload, Encoding encoding, int width, int height, int subsampling) {
    RecordHeader header{0x31524C46, uint8_t(encoding), uint8_t(subsampling), 0, 0, uint32_t(width), uint32_t(height),
                        payload.size(), 0};
    header.checksum = record_checksum(header, payload.data());
    Bytes record(sizeof header);
    std::memcpy(record.data(), &header, sizeof header);
    record.insert(record.end(), payload.begin(), payload.end());
    return record;
}

// A part of a record at every level: the same samples or refusal. `whole`: all of its planes, if it decodes.
inline void meet_part(const Exact& record, const Planes* whole) {
    const uint64_t number = xxh64(record.data(), record.size);
    for (bool scaled : {false, true}) {
        const Region region = some_region(number, scaled);
        std::vector<Bytes> found;
        for (Simd level : simd_levels()) {
            Buffer buffer;
            Planes planes;
            Bytes part;
            try {
                RecordDecoder(kernels_of(level)).planes(record.data(), record.size, false, buffer, planes, region);
                part = shown(planes, region);
            } catch (const std::runtime_error&) {
            }
            must(!whole || !part.empty(), "a part of a record that decodes is refused");
            if (whole && !scaled) must(part == shown(*whole, region), "the pixels of a part of a record");
            found.push_back(part);
            must(part == found[0], "the pixels of a part by another level");
        }
    }
}

// The samples of a record, or nothing when it is refused.
inline Bytes meet_record(const Bytes& bytes, bool check) {
    const Exact record(bytes);
    Buffer buffer;
    Planes planes;
    try {
        RecordDecoder().planes(record.data(), record.size, check, buffer, planes);
    } catch (const std::runtime_error&) {
        meet_part(record, nullptr);
        return {};
    }
    meet_part(record, &planes);
    return samples(planes);
}

// Packed coefficients alone: to planes, and back to a JPEG that holds the same coefficients.
inline void meet_packed(const Bytes& bytes) {
    const Exact packed(bytes);
    Buffer buffer;
    Planes planes;
    JpegCoefficients coefficients;
    Bytes jpeg;
    try {
        DctDecoder().planes(packed.data(), packed.size, buffer, planes);
        coefficients = dct_coefficients(packed.data(), packed.size);
        jpeg = write_jpeg(coefficients);
    } catch (const std::runtime_error&) {
        return;
    }
    const JpegCoefficients again = parse_jpeg(jpeg.data(), jpeg.size());
    for (size_t c = 0; c < again.components.size(); ++c)
        must(again.components[c].coefficients == coefficients.components[c].coefficients, "the JPEG made of a record");
}

// With the core's own decoder, which refuses what libjpeg-turbo would not decode, or with a warning only. The samples
// are libjpeg-turbo's. Returns whether it accepts.
inline bool meet_sequential(const Bytes& bytes, Simd level) {
    const Exact jpeg(bytes);
    Buffer buffer, expected_buffer;
    Planes planes, expected;
    try {
        JpegPlanesDecoder(kernels_of(level)).planes(jpeg.data(), jpeg.size, buffer, planes);
    } catch (const JpegError&) {
        return false;
    }
    std::string warning;
    try {
        warning = JpegDecoder().planes(jpeg.data(), jpeg.size, expected_buffer, expected);
    } catch (const JpegError& error) {
        warning = error.what();
    }
    if (!warning.empty()) std::fprintf(stderr, "%s\n", warning.c_str());
    must(warning.empty(), "a JPEG that libjpeg-turbo complains of is accepted");
    must(samples(planes) == samples(expected) && planes.rgb == expected.rgb, "the pixels of a JPEG");
    return true;
}

// As building meets a file. Whatever an encoding accepts decodes to libjpeg-turbo's own planes. Returns how many do.
inline int meet_jpeg(const Bytes& bytes) {
    const Exact jpeg(bytes);
    int accepted = 0;
    for (Encoding encoding : {Encoding::original, Encoding::dct, Encoding::dct_fast, Encoding::planes}) try {
            JpegDecoder decoder;
            Buffer buffer;
            Planes planes;
            const Bytes payload = encode_payload(jpeg.data(), jpeg.size, encoding);
            decoder.planes(jpeg.data(), jpeg.size, buffer, planes);
            const Bytes record = as_record(payload, encoding, planes.width, planes.height, planes.subsampling);
            must(meet_record(record, true) == samples(planes), "the pixels of a record");
            ++accepted;
        } catch (const std::runtime_error&) {
        }
    try {
        JpegDecoder decoder;
        const JpegHeader header = decoder.header(jpeg.data(), jpeg.size);
        Bytes rgb(size_t(3) * size_t(header.width) * size_t(header.height));
        decoder.rgb(jpeg.data(), jpeg.size, header, rgb.data());
    } catch (const JpegError&) {
    }
    try {
        dct_encode(jpeg.data(), jpeg.size, true);  // without libjpeg-turbo's having seen the file
    } catch (const JpegError&) {
    }
    return accepted;
}

inline void meet_lmdb(const Bytes& bytes) {
    const Exact file(bytes);
    try {
        walk_lmdb(file.data(), file.size, [&](std::string_view key, LmdbValue value) {
            must(!key.empty(), "a key");
            must(value.offset <= file.size && value.size <= file.size - value.offset, "the place of a value");
        });
    } catch (const std::invalid_argument&) {
    }
}

}  // namespace fastload

#include "record.h"

#include <algorithm>
#include <cstring>

#include "xxh64.h"

namespace fastload {
namespace {

constexpr uint32_t record_magic = 0x31524C46;

// The planes of an image of `header`'s size and subsampling, consecutive from `data` on without padding.
Planes contiguous_planes(const RecordHeader& header, const uint8_t* data) {
    Planes planes{{}, header.subsampling == gray ? 1 : 3, int(header.width), int(header.height),
                  static_cast<Subsampling>(header.subsampling), header.rgb != 0};
    for (int c = 0; c < planes.count; ++c) {
        const int dx = c ? chroma_divisor_x[planes.subsampling] : 1, dy = c ? chroma_divisor_y[planes.subsampling] : 1;
        const int width = (planes.width + dx - 1) / dx, height = (planes.height + dy - 1) / dy;
        planes.plane[c] = {data, width, height, width};
        data += size_t(width) * height;
    }
    return planes;
}

size_t samples(const Planes& planes) {
    size_t total = 0;
    for (int c = 0; c < planes.count; ++c) total += size_t(planes.plane[c].width) * planes.plane[c].height;
    return total;
}

// The planes, consecutive, then plane_slack bytes: kernels read whole vectors in place.
std::vector<uint8_t> pack_planes(const Planes& planes) {
    std::vector<uint8_t> payload(samples(planes) + plane_slack);
    uint8_t* out = payload.data();
    for (int c = 0; c < planes.count; ++c)
        for (int y = 0; y < planes.plane[c].height; ++y)
            out = std::copy_n(planes.plane[c].data + y * planes.plane[c].stride, planes.plane[c].width, out);
    return payload;
}

void decode_cleanly(JpegDecoder& jpeg, const uint8_t* data, size_t size, Buffer& buffer, Planes& planes) {
    const std::string warning = jpeg.planes(data, size, buffer, planes);
    if (!warning.empty()) throw JpegError(warning);
}

bool same_samples(const Planes& a, const Planes& b) {
    bool same = a.count == b.count && a.width == b.width && a.height == b.height;
    for (int c = 0; same && c < a.count; ++c) {
        const Plane &left = a.plane[c], &right = b.plane[c];
        same = left.width == right.width && left.height == right.height;
        for (int y = 0; same && y < left.height; ++y)
            same = !std::memcmp(left.data + y * left.stride, right.data + y * right.stride, size_t(left.width));
    }
    return same;
}

// Decoders disagree about files with coefficients larger than any image of 8 bits has.
std::vector<uint8_t> pack_dct(const uint8_t* jpeg, size_t size, bool entropy, const Planes& expected) {
    std::vector<uint8_t> payload = dct_encode(jpeg, size, entropy);
    DctDecoder decoder;
    Buffer memory;
    Planes planes;
    decoder.planes(payload.data(), payload.size(), memory, planes);
    if (!same_samples(planes, expected)) throw JpegError("its pixels would not stay the same");
    return payload;
}

}  // namespace

uint64_t record_checksum(const RecordHeader& header, const uint8_t* payload) {
    return xxh64(payload, header.payload, xxh64(&header, offsetof(RecordHeader, checksum)));
}

RecordHeader read_header(const uint8_t* record, size_t size) {
    RecordHeader header;
    if (size < sizeof header) throw RecordError("the record is shorter than its header");
    std::memcpy(&header, record, sizeof header);
    if (header.magic != record_magic) throw RecordError("the record does not begin as records do");
    if (header.payload != size - sizeof header) throw RecordError("the record's size is not what its header says");
    if (header.subsampling >= subsampling_kinds) throw RecordError("unknown chroma subsampling");
    if (header.width < 1 || header.height < 1) throw RecordError("the image has no pixels");
    if (uint64_t{header.width} * header.height > uint64_t(max_pixels()))
        throw RecordError("the image is absurdly large: more pixels than FASTLOAD_MAX_PIXELS allows");
    return header;
}

bool has_checksum(const uint8_t* record, size_t size, uint64_t checksum) try {
    const RecordHeader header = read_header(record, size);
    return header.checksum == checksum && record_checksum(header, record + sizeof header) == checksum;
} catch (const RecordError&) {
    return false;
}

void RecordDecoder::planes(const uint8_t* record, size_t size, bool check, Buffer& buffer, Planes& planes,
                           const Region& region) {
    const RecordHeader header = read_header(record, size);
    const uint8_t* payload = record + sizeof header;
    if (header.encoding == uint8_t(Encoding::original)) payload = own_copy(payload, header.payload);
    if (check && record_checksum(header, payload) != header.checksum)
        throw RecordError("checksum mismatch: its bytes have changed since the cache was built");
    switch (static_cast<Encoding>(header.encoding)) {
        case Encoding::original:
            jpeg_planes(payload, header.payload, buffer, planes, region);
            break;
        case Encoding::dct:
        case Encoding::dct_fast:
            dct_.planes(payload, header.payload, buffer, planes, region);
            break;
        case Encoding::planes:
            planes = contiguous_planes(header, payload);
            if (header.payload != samples(planes) + plane_slack) throw RecordError("the planes' size is wrong");
            break;
        default:
            throw RecordError("unknown encoding " + std::to_string(header.encoding) +
                              ": the cache was made by a newer fastload");
    }
    if (planes.width != int(header.width) || planes.height != int(header.height))
        throw RecordError("the image decodes to another size than its header says");
}

// A JPEG is read in several passes, which must read the same bytes although the file may be overwritten meanwhile.
const uint8_t* RecordDecoder::own_copy(const uint8_t* data, size_t size) {
    uint8_t* const copy = copy_.ensure(size);
    std::copy_n(data, size, copy);
    return copy;
}

// libjpeg-turbo decodes what our decoder refuses, or finds the damage.
void RecordDecoder::jpeg_planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes,
                                const Region& region) {
    try {
        if (is_huffman_sequential(data, size)) return sequential_.planes(data, size, buffer, planes, region);
    } catch (const JpegError&) {
    }
    decode_cleanly(jpeg_, data, size, buffer, planes);
}

std::vector<uint8_t> encode_payload(const uint8_t* jpeg, size_t size, Encoding encoding) {
    JpegDecoder decoder;
    Buffer memory;
    Planes planes;
    decode_cleanly(decoder, jpeg, size, memory, planes);
    switch (encoding) {
        case Encoding::original:
            return {jpeg, jpeg + size};
        case Encoding::dct:
            return pack_dct(jpeg, size, true, planes);
        case Encoding::dct_fast:
            return pack_dct(jpeg, size, false, planes);
        case Encoding::planes:
            return pack_planes(planes);
    }
    throw std::invalid_argument("unknown encoding " + std::to_string(int(encoding)));
}

}  // namespace fastload

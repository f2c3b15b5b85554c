// A record of a cache: see fastload/cache/format/layout.py.
#pragma once

#include <cstdint>

#include <vector>

#include "dct.h"
#include "jpeg_planes.h"
#include "planes.h"
#include "region.h"
#include "turbojpeg.h"

namespace fastload {

enum class Encoding : uint8_t { original, dct, dct_fast, planes };

struct RecordHeader {
    uint32_t magic;
    uint8_t encoding, subsampling, rgb, reserved;
    uint32_t width, height;
    uint64_t payload;
    uint64_t checksum;
};
static_assert(sizeof(RecordHeader) == 32, "the format's header has 32 bytes");

// The checksum of a record's payload.
uint64_t record_checksum(const RecordHeader& header, const uint8_t* payload);

// The bytes in a cache are not those that were written.
struct RecordError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Reads the header and checks it against the record's size. Throws RecordError.
RecordHeader read_header(const uint8_t* record, size_t size);

// Whether it is a whole record, with this checksum in its header and matching content.
bool has_checksum(const uint8_t* record, size_t size, uint64_t checksum);

// Turns records into planes; one per thread.
class RecordDecoder {
public:
    explicit RecordDecoder(const Kernels& chosen = kernels()) : sequential_(chosen), dct_(chosen) {}

    // `planes` points into memory of `buffer` or into the record itself. No more than `region` needs to be decoded:
    // other samples may have any value, and planes may be smaller. Throws RecordError, JpegError or DctError.
    void planes(const uint8_t* record, size_t size, bool check, Buffer& buffer, Planes& planes,
                const Region& region = {});

private:
    const uint8_t* own_copy(const uint8_t* data, size_t size);
    void jpeg_planes(const uint8_t* data, size_t size, Buffer& buffer, Planes& planes, const Region& region);

    JpegPlanesDecoder sequential_;
    JpegDecoder jpeg_;
    DctDecoder dct_;
    Buffer copy_;
};

// Converts a JPEG to a payload in `encoding`, and checks that it decodes to the same planes. Throws JpegError if the
// JPEG does not decode cleanly or cannot be converted.
std::vector<uint8_t> encode_payload(const uint8_t* jpeg, size_t size, Encoding encoding);

}  // namespace fastload

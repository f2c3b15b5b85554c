// Run under AddressSanitizer and UndefinedBehaviorSanitizer with a number and JPEG files as arguments: turns so many
// mutated records back to JPEGs. Each gives an exception, or a JPEG that is parsed to the record's coefficients.
#include "jpeg_write.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>

#include "turbojpeg.h"

using namespace fastload;

namespace {

using Bytes = std::vector<uint8_t>;

std::mt19937 rng(7);

size_t uniform(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(rng); }

Bytes mutated(Bytes bytes) {
    for (size_t times = uniform(1, 4); times; --times) {
        uint8_t& byte = bytes[uniform(0, bytes.size() - 1)];
        const size_t kind = uniform(0, 3);
        if (kind == 0) byte ^= uint8_t(1 << uniform(0, 7));
        if (kind == 1) byte = uint8_t(uniform(0, 255));
        if (kind >= 2) std::swap(byte, bytes[uniform(0, bytes.size() - 1)]);
    }
    return bytes;
}

// Whether a record was turned to a JPEG. Ends the program when that JPEG holds other coefficients.
bool round_trip(const Bytes& record) {
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[record.size()]);  // so that reading past the end is reported
    std::copy(record.begin(), record.end(), exact.get());
    JpegCoefficients before;
    Bytes jpeg;
    try {
        before = dct_coefficients(exact.get(), record.size());
        jpeg = write_jpeg(before);
    } catch (const DctError&) {
        return false;
    } catch (const JpegError&) {
        return false;
    }
    const JpegCoefficients after = parse_jpeg(jpeg.data(), jpeg.size());
    for (size_t c = 0; c < before.components.size(); ++c) {
        if (after.components.at(c).coefficients != before.components[c].coefficients) {
            std::fprintf(stderr, "the JPEG holds other coefficients\n");
            std::exit(1);
        }
    }
    return true;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<Bytes> records;
    for (int i = 2; i < argc; ++i) {
        std::ifstream file(argv[i], std::ios::binary);
        const Bytes jpeg{std::istreambuf_iterator<char>(file), {}};
        for (bool entropy : {true, false}) records.push_back(dct_encode(jpeg.data(), jpeg.size(), entropy));
    }
    int whole = 0;
    for (int n = std::atoi(argv[1]); n; --n) whole += round_trip(mutated(records[uniform(0, records.size() - 1)]));
    std::printf("%d written\n", whole);
}

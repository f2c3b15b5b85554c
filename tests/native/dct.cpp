// Run under AddressSanitizer and UndefinedBehaviorSanitizer with JPEG files as arguments: packs mutated JPEGs and
// unpacks mutated records. Each gives an exception or planes; the planes are the scalar decoder's to the bit.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dct.h"
#include "shown.h"
#include "turbojpeg.h"

using namespace fastload;

namespace {

using Bytes = std::vector<uint8_t>;

std::mt19937 rng(11);

size_t uniform(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(rng); }

Bytes read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void mutate_once(Bytes& bytes) {
    const size_t at = uniform(0, bytes.size() - 1);
    switch (uniform(0, 6)) {
        case 0:
            bytes[at] ^= uint8_t(1 << uniform(0, 7));
            return;
        case 1:
            bytes[at] = uint8_t(uniform(0, 255));
            return;
        case 2:
            bytes[at] = uniform(0, 1) ? 0x80 : 0xff;
            return;
        case 3:
        case 4:  // keeps the number of bits set, so that a record's streams still fit each other
            std::swap(bytes[at], bytes[uniform(at, std::min(at + 40, bytes.size() - 1))]);
            return;
        case 5:
            if (uniform(0, 3) == 0) bytes.resize(std::max<size_t>(at, 1));
            return;
        case 6:
            if (uniform(0, 3) == 0) bytes.insert(bytes.begin() + ptrdiff_t(at), 3, uint8_t(uniform(0, 255)));
            return;
    }
}

Bytes mutated(Bytes bytes) {
    for (size_t times = uniform(1, 6); times; --times) mutate_once(bytes);
    return bytes;
}

// The samples of a region one after another, or the error's text.
std::string decoded(const Bytes& record, const Kernels& kernels, const Region& region = {}) {
    const std::unique_ptr<uint8_t[]> exact(new uint8_t[record.size()]);  // so that reading past the end is reported
    std::copy(record.begin(), record.end(), exact.get());
    DctDecoder decoder(kernels);
    Buffer buffer;
    Planes planes;
    try {
        decoder.planes(exact.get(), record.size(), buffer, planes, region);
    } catch (const DctError& error) {
        return std::string("error: ") + error.what();
    }
    const std::vector<uint8_t> samples = shown(planes, region);
    return {samples.begin(), samples.end()};
}

void check_record(const Bytes& record, size_t& good) {
    const std::string samples = decoded(record, kernels());
    good += samples.compare(0, 6, "error:") != 0;
    const Region part = some_region(uint64_t{rng()} << 32 | rng(), rng() % 2);
    if (samples == decoded(record, scalar_kernels) &&
        decoded(record, kernels(), part) == decoded(record, scalar_kernels, part))
        return;
    std::fprintf(stderr, "differs from scalar\n");
    std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
    const size_t rounds = std::strtoul(argv[1], nullptr, 10);
    std::vector<Bytes> jpegs;
    for (int i = 2; i < argc; ++i) jpegs.push_back(read(argv[i]));
    size_t packed = 0, unpacked = 0;
    for (size_t round = 0; round < rounds; ++round) {
        const Bytes& jpeg = jpegs[round % jpegs.size()];
        const bool entropy = round / jpegs.size() % 2 == 0;
        const Bytes bad = mutated(jpeg);
        try {
            check_record(dct_encode(bad.data(), bad.size(), entropy), packed);
        } catch (const JpegError&) {
        }
        check_record(mutated(dct_encode(jpeg.data(), jpeg.size(), entropy)), unpacked);
    }
    std::printf("%zu packed, %zu unpacked of %zu\n", packed, unpacked, rounds);
}

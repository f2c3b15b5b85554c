// Run under AddressSanitizer and UndefinedBehaviorSanitizer with a number, a seed and JPEG files as arguments: meets so
// many mutated JPEGs, and as many mutated records of them. See meet.h for what must hold.
#include <fstream>
#include <iterator>
#include <random>

#include "meet.h"

using namespace fastload;

namespace {

std::mt19937 rng;

size_t uniform(size_t low, size_t high) { return std::uniform_int_distribution<size_t>(low, high)(rng); }

Bytes read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Where the frame header's height and width are; 0 when there is none.
size_t find_size(const Bytes& jpeg) {
    for (size_t i = 2; i + 9 < jpeg.size(); ++i)
        if (jpeg[i] == 0xff && jpeg[i + 1] >= 0xc0 && jpeg[i + 1] <= 0xc2) return i + 5;
    return 0;
}

void flip_bits(Bytes& bytes, const Bytes&) {
    for (size_t times = uniform(1, 8); times; --times) bytes[uniform(0, bytes.size() - 1)] ^= uint8_t(1 << uniform(0, 7));
}

void cut(Bytes& bytes, const Bytes&) { bytes.resize(uniform(0, 3) ? uniform(0, bytes.size() - 1) : uniform(0, 4)); }

// The beginning of one file and the end of another.
void splice(Bytes& bytes, const Bytes& other) {
    bytes.resize(uniform(0, bytes.size()));
    bytes.insert(bytes.end(), other.begin() + ptrdiff_t(uniform(0, other.size())), other.end());
}

// Some of its own bytes once more, or some of another's in the midst of it.
void insert(Bytes& bytes, const Bytes& other) {
    const Bytes from = uniform(0, 1) ? other : bytes;
    const size_t begin = uniform(0, from.size() - 1), end = uniform(begin, std::min(begin + 200, from.size()));
    bytes.insert(bytes.begin() + ptrdiff_t(uniform(0, bytes.size())), from.begin() + ptrdiff_t(begin),
                 from.begin() + ptrdiff_t(end));
}

void absurd_size(Bytes& bytes, const Bytes&) {
    const size_t at = find_size(bytes);
    if (!at) return;
    constexpr int sides[] = {0, 1, 7, 9, 255, 4096, 32767, 65500, 65535};
    for (size_t i = at; i < at + 4; i += 2) {
        const int side = sides[uniform(0, 8)];
        bytes[i] = uint8_t(side >> 8);
        bytes[i + 1] = uint8_t(side);
    }
}

void other_sampling(Bytes& bytes, const Bytes&) {
    const size_t at = find_size(bytes);
    if (at) bytes[at + 6] = uint8_t(uniform(0, 3) ? uniform(1, 4) << 4 | uniform(1, 4) : uniform(0, 255));
}

Bytes mutated(Bytes bytes, const Bytes& other) {
    constexpr decltype(&cut) kinds[] = {flip_bits, flip_bits, cut, splice, insert, absurd_size, other_sampling};
    for (size_t times = uniform(1, 3); times && !bytes.empty(); --times) kinds[uniform(0, 6)](bytes, other);
    return bytes;
}

// A record of the file with bytes of its payload, and sometimes of its header, changed. Its checksum is let be.
Bytes mutated_record(const Bytes& jpeg) {
    const auto encoding = static_cast<Encoding>(uniform(0, 3));
    Buffer buffer;
    Planes planes;
    JpegDecoder().planes(jpeg.data(), jpeg.size(), buffer, planes);
    Bytes payload = encode_payload(jpeg.data(), jpeg.size(), encoding);
    if (uniform(0, 3)) flip_bits(payload, payload);
    if (uniform(0, 3) == 0) cut(payload, payload);
    Bytes record = as_record(payload, encoding, planes.width, planes.height, planes.subsampling);
    if (uniform(0, 3) == 0) record[uniform(4, 15)] = uint8_t(uniform(0, 1) ? uniform(0, 8) : uniform(0, 255));
    return record;
}

}  // namespace

int main(int, char** argv) {
    const size_t rounds = std::strtoul(argv[1], nullptr, 10);
    rng.seed(uint32_t(std::strtoul(argv[2], nullptr, 10)));
    std::vector<Bytes> jpegs;
    for (char** path = argv + 3; *path; ++path) jpegs.push_back(read(*path));
    size_t accepted = 0, decoded = 0, sequential = 0;
    for (size_t round = 0; round < rounds; ++round) {
        const Bytes& jpeg = jpegs[round % jpegs.size()];
        const Bytes bad = mutated(jpeg, jpegs[uniform(0, jpegs.size() - 1)]);
        accepted += meet_jpeg(bad) != 0;
        for (Simd level : simd_levels()) sequential += meet_sequential(bad, level);
        decoded += !meet_record(mutated_record(jpeg), false).empty();
    }
    std::printf("%zu accepted, %zu times by the core's own decoder, %zu records decoded of %zu\n", accepted, sequential,
                decoded, rounds);
}

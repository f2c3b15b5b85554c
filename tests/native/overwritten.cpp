// Run under AddressSanitizer and UndefinedBehaviorSanitizer with a number and JPEG files as arguments: decodes records so
// many times each while another thread writes over them, as happens to a mapped file that is overwritten in place.
#include <atomic>
#include <fstream>
#include <iterator>
#include <random>
#include <thread>

#include "meet.h"

using namespace fastload;

namespace {

Bytes read(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// What a record may be overwritten by: itself, with bits changed, with its middle gone, with that of another.
std::vector<Bytes> variants(const Bytes& record, const Bytes& other) {
    std::mt19937 rng(1);
    std::vector<Bytes> all{record};
    for (int k = 0; k < 30; ++k) {
        Bytes bytes = record;
        const size_t begin = sizeof(RecordHeader) + rng() % (record.size() - sizeof(RecordHeader));
        if (k % 3 == 0)
            for (int times = 0; times < 20; ++times) bytes[begin + rng() % (bytes.size() - begin)] ^= uint8_t(1 << rng() % 8);
        else if (k % 3 == 1)
            std::fill(bytes.begin() + ptrdiff_t(begin), bytes.end(), uint8_t(rng() % 2 ? 0xff : 0));
        else
            std::copy_n(other.begin() + sizeof(RecordHeader), std::min(other.size(), bytes.size()) - sizeof(RecordHeader),
                        bytes.begin() + sizeof(RecordHeader));
        all.push_back(std::move(bytes));
    }
    return all;
}

void decode_while_overwritten(const Bytes& record, const Bytes& other, int times) {
    const std::unique_ptr<uint8_t[]> memory(new uint8_t[record.size()]);  // nothing behind it
    std::copy(record.begin(), record.end(), memory.get());
    std::atomic<bool> stop{false};
    std::thread writer([&] {
        const std::vector<Bytes> all = variants(record, other);
        for (size_t k = 0; !stop; k = (k + 1) % all.size()) std::memcpy(memory.get(), all[k].data(), record.size());
    });
    RecordDecoder decoder;
    for (int k = 0; k < times; ++k) try {
            Buffer buffer;
            Planes planes;
            decoder.planes(memory.get(), record.size(), false, buffer, planes);
            samples(planes);
        } catch (const std::runtime_error&) {
        }
    stop = true;
    writer.join();
}

}  // namespace

int main(int count, char** arguments) {
    const int times = std::atoi(arguments[1]);
    std::vector<Bytes> files;
    for (int i = 2; i < count; ++i) files.push_back(read(arguments[i]));
    for (const Encoding encoding : {Encoding::original, Encoding::dct, Encoding::dct_fast, Encoding::planes}) {
        std::vector<Bytes> records;
        for (const Bytes& jpeg : files) try {
                JpegDecoder decoder;
                Buffer buffer;
                Planes planes;
                decoder.planes(jpeg.data(), jpeg.size(), buffer, planes);
                const Bytes payload = encode_payload(jpeg.data(), jpeg.size(), encoding);
                records.push_back(as_record(payload, encoding, planes.width, planes.height, planes.subsampling));
            } catch (const std::runtime_error&) {
            }
        for (size_t i = 0; i < records.size(); ++i)
            decode_while_overwritten(records[i], records[(i + 1) % records.size()], times);
    }
    std::puts("done");
}

// Reads a large mapped file without keeping it resident: pages are unmapped after reading. They stay in the page cache,
// from which the next access maps them again.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace fastload {

// Use `released` only for shared mappings of files: other memory would lose its content.
enum class Residency : bool { kept, released };

class ResidentPages {
public:
    ResidentPages(const uint8_t* file, size_t size, Residency residency)
        : file_(file), size_(size), releases_(residency == Residency::released) {}
    ResidentPages(const ResidentPages&) = delete;
    ~ResidentPages() { release(); }

    // Call this before reading at `address`. At most kLimit such places stay resident, with the pages around them.
    void read(const uint8_t* address) {
        if (!releases_) return;
        if (count_ == kLimit) release();
        const size_t at = size_t(address - file_);
        first_ = count_ ? std::min(first_, at) : at;
        last_ = count_ ? std::max(last_, at) : at;
        ++count_;
    }

private:
    // An access also maps pages around it, but only within its aligned 2 MiB.
    static constexpr size_t kAround = size_t{1} << 21, kLimit = 128;

    void release() {
        if (!count_) return;
        count_ = 0;
        const size_t begin = first_ / kAround * kAround, end = std::min((last_ / kAround + 1) * kAround, size_);
        ::madvise(const_cast<uint8_t*>(file_) + begin, end - begin, MADV_DONTNEED);  // if it fails, they stay
    }

    const uint8_t* const file_;
    const size_t size_;
    const bool releases_;
    size_t first_ = 0, last_ = 0, count_ = 0;
};

}  // namespace fastload

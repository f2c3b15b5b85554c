// A file mapped read-only, whose pages may vanish: see fault.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fault.h"

namespace fastload {

class MappedFile {
public:
    // Shows whether the file is still the one that was mapped.
    struct State {
        int64_t size, changed;  // bytes, nanoseconds since 1970
        uint32_t vanished;      // how many vanished pages were found
    };

    explicit MappedFile(int descriptor);  // duplicates the descriptor. Throws std::system_error.
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;

    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    // The present state of the file; takes a microsecond or two. Throws std::system_error. Also installs our handler of
    // vanished pages again, in case another one was installed since.
    State state() const;
    uint32_t vanished() const { return range_->vanished.load(); }
    // The pages need not stay in memory.
    void release_pages() const;
    // Whether reading a page also reads the pages around it. On at first.
    void read_ahead(bool wanted) const;

private:
    const int descriptor_;
    size_t size_ = 0;
    const uint8_t* data_ = nullptr;
    WatchedRange* range_ = nullptr;
};

}  // namespace fastload

// A file mapped read-only, whose pages may vanish: see fault.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fault.h"

namespace fastload {

class MappedFile {
public:
    // What tells whether the file is still the one that was mapped.
    struct State {
        int64_t size, changed;  // bytes, nanoseconds since 1970
        uint32_t vanished;      // how often pages of it were found to have vanished
    };

    explicit MappedFile(int descriptor);  // of which it makes a copy. Throws std::system_error.
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;

    const uint8_t* data() const { return data_; }
    size_t size() const { return size_; }
    // As the file is now; takes a microsecond or two. Throws std::system_error. Also sees to it that we are the first to
    // hear of vanished pages, though somebody may have installed another handler since.
    State state() const;
    uint32_t vanished() const { return range_->vanished.load(); }
    // The pages need not stay in memory.
    void release_pages() const;
    // Whether the pages around one that is read are read too: so it is at first.
    void read_ahead(bool wanted) const;

private:
    const int descriptor_;
    size_t size_ = 0;
    const uint8_t* data_ = nullptr;
    WatchedRange* range_ = nullptr;
};

}  // namespace fastload

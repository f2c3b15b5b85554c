#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace fastload {
namespace {

[[noreturn]] void fail() { throw std::system_error(errno, std::generic_category()); }

struct stat status_of(int descriptor) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) fail();
    return status;
}

int64_t changed(const struct stat& status) {
#ifdef __APPLE__
    const struct timespec& time = status.st_mtimespec;
#else
    const struct timespec& time = status.st_mtim;
#endif
    return int64_t(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

MappedFile::MappedFile(int descriptor) : descriptor_(fcntl(descriptor, F_DUPFD_CLOEXEC, 0)) {
    if (descriptor_ < 0) fail();
    try {
        size_ = size_t(status_of(descriptor_).st_size);
        void* const data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor_, 0);
        if (data == MAP_FAILED) fail();
        data_ = static_cast<const uint8_t*>(data);
        range_ = watch(data_, size_, descriptor_);
    } catch (...) {
        if (data_) munmap(const_cast<uint8_t*>(data_), size_);
        close(descriptor_);
        throw;
    }
}

MappedFile::~MappedFile() {
    unwatch(range_);
    munmap(const_cast<uint8_t*>(data_), size_);
    close(descriptor_);
}

MappedFile::State MappedFile::state() const {
    handle_bus_errors();
    const struct stat status = status_of(descriptor_);
    return {int64_t(status.st_size), changed(status), vanished()};
}

void MappedFile::release_pages() const { madvise(const_cast<uint8_t*>(data_), size_, MADV_DONTNEED); }

void MappedFile::read_ahead(bool wanted) const {
    madvise(const_cast<uint8_t*>(data_), size_, wanted ? MADV_NORMAL : MADV_RANDOM);
}

}  // namespace fastload

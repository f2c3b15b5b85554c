// Files truncated while threads read them, again and again, and faults elsewhere: for the sanitizers.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "mapped_file.h"

using namespace fastload;

namespace {

constexpr size_t pages = 16;
const size_t page = size_t(sysconf(_SC_PAGESIZE));

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

// A file of pages of sevens that has no name any more.
int new_file() {
    char name[] = "faults-XXXXXX";
    const int descriptor = mkstemp(name);
    unlink(name);
    const std::vector<char> content(pages * page, 7);
    if (descriptor < 0 || write(descriptor, content.data(), content.size()) != ssize_t(content.size())) fail("no file");
    return descriptor;
}

// The thread sanitizer takes replacing a page for a race with whoever reads there; that is the point of it.
__attribute__((noinline, no_sanitize("thread"))) uint8_t byte_at(const void* place) {
    return *static_cast<const volatile uint8_t*>(place);
}

// Zeros come instead of sevens, and only with a word that they do.
void read_all(const MappedFile& file) {
    for (int round = 0; round < 3; ++round)
        for (size_t at = 0; at < file.size(); at += page) {
            const uint8_t byte = byte_at(file.data() + at);
            if (byte != 7 && (byte != 0 || intact(file.data() + at))) fail("a zero came unannounced");
        }
}

void truncate_while_read(unsigned seed) {
    for (unsigned round = 0; round < 60; ++round) {
        const int descriptor = new_file();
        const size_t left = (round * 7 + seed) % pages;
        {
            const MappedFile file(descriptor), untouched(descriptor);
            std::thread first([&] { read_all(file); }), second([&] { read_all(file); });
            if (ftruncate(descriptor, off_t(left * page)) != 0) fail("not truncated");
            read_all(file);
            first.join();
            second.join();
            if (file.state().size != int64_t(left * page) || file.vanished() == 0) fail("nobody noticed");
            if (untouched.vanished() != 0 || !intact(untouched.data())) fail("the wrong file is blamed");
            for (size_t at = 0; at < pages; ++at)
                if (byte_at(file.data() + at * page) != (at < left ? 7 : 0)) fail("the wrong pages vanished");
        }
        close(descriptor);
    }
}

sigjmp_buf back;
volatile void* faulted_at;

void earlier_handler(int, siginfo_t* info, void*) {
    faulted_at = info->si_addr;
    siglongjmp(back, 1);
}

// A fault in memory that nobody watches comes to the handler that was there before, with its address.
void fault_elsewhere() {
    const int descriptor = new_file();
    void* const data = mmap(nullptr, page, PROT_READ, MAP_SHARED, descriptor, 0);
    if (ftruncate(descriptor, 0) != 0) fail("not truncated");
    for (int time = 0; time < 3; ++time) {
        faulted_at = nullptr;
        if (sigsetjmp(back, 1) == 0) {
            byte_at(data);
            fail("no fault");
        }
        if (faulted_at != data) fail("the earlier handler was not told where");
    }
    munmap(data, page);
    close(descriptor);
}

}  // namespace

int main() {
    struct sigaction action = {};
    action.sa_sigaction = earlier_handler;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGBUS, &action, nullptr);
    std::vector<std::thread> users;
    for (unsigned seed = 0; seed < 3; ++seed) users.emplace_back(truncate_while_read, seed);
    for (std::thread& user : users) user.join();
    fault_elsewhere();
    std::puts("done");
}

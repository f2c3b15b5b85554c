#include "fault.h"

#include <csignal>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <mutex>

namespace fastload {
namespace {

// Not locked by any signal handler. Python calls with the GIL held, so no other thread holds it when Python forks.
std::mutex mutex;

std::atomic<WatchedRange*> ranges{nullptr};
std::atomic<bool> any_vanished{false};
const uintptr_t page_mask = uintptr_t(sysconf(_SC_PAGESIZE)) - 1;

// The handlers of SIGBUS before ours: the first one, and those installed over ours since. Entries do not change.
constexpr int most_earlier = 16;
struct sigaction earlier[most_earlier];
int earlier_count = 0;               // guarded by the mutex
std::atomic<int> latest_earlier{0};  // an index

// How many earlier handlers this thread is in. A handler installed over ours may call ours as its predecessor.
#ifdef __linux__
// Other models may allocate at first use, which a signal handler must not do. With this one, all thread-local variables
// of the core take room in a small block of the process, so large ones belong on the heap.
__attribute__((tls_model("initial-exec")))
#endif
thread_local int depth = 0;

WatchedRange* find(uintptr_t address) {
    for (WatchedRange* range = ranges.load(std::memory_order_acquire); range; range = range->next)
        if (address >= range->begin.load(std::memory_order_acquire) && address < range->end.load(std::memory_order_acquire))
            return range;
    return nullptr;
}

// Sent by kill or raise, so without an address.
bool was_sent(const siginfo_t& info) {
#ifdef __APPLE__
    return info.si_code == SI_USER || info.si_code == SI_QUEUE;
#else
    return info.si_code <= 0;
#endif
}

// Replaces the page at a faulting address by zeros, and with it all pages that the file is now too short for.
bool replace(uintptr_t address) {
    WatchedRange* const range = find(address);
    if (!range) return false;
    const uintptr_t begin = range->begin.load(std::memory_order_relaxed);
    uintptr_t from = address & ~page_mask, to = from + page_mask + 1;
    struct stat status;
    if (fstat(range->descriptor.load(std::memory_order_relaxed), &status) == 0) {
        const uintptr_t end = begin + ((uintptr_t(status.st_size) + page_mask) & ~page_mask);
        if (end <= from) from = end, to = (range->end.load(std::memory_order_relaxed) + page_mask) & ~page_mask;
    }
    range->vanished.fetch_add(1);  // before any thread can read a zero
    any_vanished.store(true);
    void* const at = reinterpret_cast<void*>(from);
    return mmap(at, to - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at;
}

void reset_to_default() {
    struct sigaction standard = {};
    standard.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &standard, nullptr);
}

// As if our handler were not installed.
void pass_on(int signal, siginfo_t* info, void* context) {
    const int latest = latest_earlier.load(std::memory_order_acquire), index = latest ? latest - depth : 0;
    const struct sigaction* const action = index >= 0 ? &earlier[index] : nullptr;
    const bool has_info = action && (action->sa_flags & SA_SIGINFO);
    if (!action || (!has_info && (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN))) {
        if (action && action->sa_handler == SIG_IGN && was_sent(*info)) return;
        reset_to_default();
        if (was_sent(*info)) raise(signal);
        return;  // to the instruction that faults, which faults again
    }
    if (action->sa_flags & int(SA_RESETHAND)) reset_to_default();
    ++depth;
    if (has_info)
        action->sa_sigaction(signal, info, context);
    else
        action->sa_handler(signal);
    --depth;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
    const int saved = errno;
    if (was_sent(*info) || !replace(reinterpret_cast<uintptr_t>(info->si_addr))) pass_on(signal, info, context);
    errno = saved;
}

bool is_ours(const struct sigaction& action) {
    return (action.sa_flags & SA_SIGINFO) && action.sa_sigaction == on_bus_error;
}

bool same(const struct sigaction& a, const struct sigaction& b) {
    const bool info = a.sa_flags & SA_SIGINFO;
    return a.sa_flags == b.sa_flags && (info ? a.sa_sigaction == b.sa_sigaction : a.sa_handler == b.sa_handler);
}

}  // namespace

void handle_bus_errors() {
    struct sigaction now;
    if (sigaction(SIGBUS, nullptr, &now) != 0 || is_ours(now)) return;
    std::lock_guard<std::mutex> lock(mutex);
    if (sigaction(SIGBUS, nullptr, &now) != 0 || is_ours(now)) return;
    int index = 0;
    while (index < earlier_count && !same(earlier[index], now)) ++index;
    if (index == most_earlier) return;
    if (index == earlier_count) earlier[earlier_count++] = now;
    latest_earlier.store(index, std::memory_order_release);
    struct sigaction ours = {};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER;  // an earlier handler may raise it again
    sigemptyset(&ours.sa_mask);
    sigaction(SIGBUS, &ours, nullptr);
}

WatchedRange* watch(const void* data, size_t size, int descriptor) {
    handle_bus_errors();
    std::lock_guard<std::mutex> lock(mutex);
    WatchedRange* range = ranges.load();
    while (range && range->taken) range = range->next;
    const bool is_new = range == nullptr;
    if (is_new) range = new WatchedRange;
    range->taken = true;
    range->vanished = 0;
    range->descriptor = descriptor;
    range->begin.store(reinterpret_cast<uintptr_t>(data));
    range->end.store(reinterpret_cast<uintptr_t>(data) + size);  // from now on the signal handler finds it
    if (is_new) {
        range->next = ranges.load();
        ranges.store(range);
    }
    return range;
}

void unwatch(WatchedRange* range) {
    std::lock_guard<std::mutex> lock(mutex);
    range->end.store(0);
    range->begin.store(0);
    range->taken = false;
}

bool intact(const void* data) {
    if (!any_vanished.load(std::memory_order_relaxed)) return true;
    const WatchedRange* const range = find(reinterpret_cast<uintptr_t>(data));
    return range == nullptr || range->vanished.load() == 0;
}

}  // namespace fastload

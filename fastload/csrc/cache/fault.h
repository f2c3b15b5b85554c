// Files whose pages vanish while they are mapped.
//
// Reading a page that a mapped file no longer has, or that its disk cannot deliver, raises SIGBUS, which ends the
// process. In watched memory such a page reads as zeros instead and is counted, so that readers can check afterwards.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastload {

// A mapping of a file. The signal handler walks a list of these, so they are never freed but reused.
struct WatchedRange {
    std::atomic<uintptr_t> begin{0}, end{0};  // both 0 when nothing is watched
    std::atomic<int> descriptor{-1};          // of the file
    std::atomic<uint32_t> vanished{0};        // faults so far, of single pages or of all pages past the file's end
    bool taken = true;                        // guarded by the mutex of `watch`
    WatchedRange* next = nullptr;
};

// Watches the memory until `unwatch`, which must be called before it is unmapped or `descriptor` closed.
WatchedRange* watch(const void* data, size_t size, int descriptor);
void unwatch(WatchedRange* range);

// Installs our signal handler (again) before the present handler of SIGBUS. Faults elsewhere are passed on to that one.
void handle_bus_errors();

// False if a page of the file mapped there has vanished. Almost free as long as no page of any file has.
bool intact(const void* data);

}  // namespace fastload

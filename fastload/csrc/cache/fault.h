// Files whose pages vanish while they are mapped.
//
// Reading a page that a mapped file no longer has, or that its disk cannot deliver, raises SIGBUS, which ends the process.
// In watched memory such a page reads as zeros instead, and is counted: whoever reads there asks afterwards.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace fastload {

// Memory that a file is mapped to. The signal handler walks a list of these: they are never freed, but used again.
struct WatchedRange {
    std::atomic<uintptr_t> begin{0}, end{0};  // both 0 when nothing is watched
    std::atomic<int> descriptor{-1};          // of the file
    std::atomic<uint32_t> vanished{0};        // faults met, of a page or of all pages beyond the file's end
    bool taken = true;                        // guarded by the mutex of `watch`
    WatchedRange* next = nullptr;
};

// Watches the memory until `unwatch`, which must be called before it is unmapped or `descriptor` closed.
WatchedRange* watch(const void* data, size_t size, int descriptor);
void unwatch(WatchedRange* range);

// Puts the signal handler (back) in front of whatever handles SIGBUS now, to which it passes all faults elsewhere.
void handle_bus_errors();

// False when a page of the file mapped there has vanished. Costs next to nothing as long as none has in any file.
bool intact(const void* data);

}  // namespace fastload

// Runs tasks on threads of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace fastload {

// Calls task(i) for every i below `tasks`, on up to `threads` threads including the calling one. Rethrows the first
// exception, after all threads have ended.
template <class Task>
void in_parallel(size_t tasks, size_t threads, const Task& task) {
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::exception_ptr failure;
    const auto work = [&] {
        try {
            for (size_t i = next++; i < tasks; i = next++) task(i);
        } catch (...) {
            next = tasks;
            const std::lock_guard<std::mutex> lock(mutex);
            if (!failure) failure = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    try {
        for (size_t i = 1; i < std::min(tasks, threads); ++i) others.emplace_back(work);
    } catch (const std::system_error&) {  // the system gives no more threads: those that there are do the work
    }
    work();
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
}

}  // namespace fastload

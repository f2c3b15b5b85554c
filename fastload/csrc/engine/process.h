// The identity of this process, for objects that must notice a fork.
#pragma once

#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>

namespace fastload {

inline std::atomic<pid_t> process_id{getpid()};
inline const int process_id_follows = pthread_atfork(nullptr, nullptr, [] { process_id = getpid(); });

// getpid() without a system call each time.
inline pid_t this_process() { return process_id.load(std::memory_order_relaxed); }

}  // namespace fastload

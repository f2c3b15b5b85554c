// Measures what a thread spends its time on; cheap enough to call once per image.
#pragma once

#include <sys/resource.h>
#include <time.h>

#include <chrono>

namespace fastload {

// Seconds, over all threads of a pool.
struct Times {
    double waiting = 0;  // for something to do
    double working = 0;  // on a core
    double disk = 0;     // working but blocked: a page of the cache was not in memory
    double starved = 0;  // ready to work, but other processes had the core

    Times& operator+=(const Times& other) {
        waiting += other.waiting;
        working += other.working;
        disk += other.disk;
        starved += other.starved;
        return *this;
    }
};

// Measures the thread that uses it.
class Stopwatch {
public:
    Stopwatch() { start(); }

    void start() {
        wall_ = std::chrono::steady_clock::now();
        read(core_, blocked_);
    }

    // The work since the start or the last lap. Work takes no lock that is held for long, so a thread that gives up its
    // core voluntarily waits for a page.
    Times lap() {
        const auto wall = wall_;
        const double core = core_;
        const long blocked = blocked_;
        start();
        Times times;
        times.working = core_ - core;
        const double off = std::chrono::duration<double>(wall_ - wall).count() - times.working;
        if (off > 0) (blocked_ > blocked ? times.disk : times.starved) = off;
        return times;
    }

    // Likewise for waiting for work.
    Times idle() {
        const auto wall = wall_;
        start();
        Times times;
        times.waiting = std::chrono::duration<double>(wall_ - wall).count();
        return times;
    }

private:
    static void read(double& core, long& blocked) {
#ifdef RUSAGE_THREAD
        rusage usage;
        getrusage(RUSAGE_THREAD, &usage);
        core = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + 1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
        blocked = usage.ru_nvcsw;
#else  // macOS does not report context switches of a thread: all time off a core counts as disk
        timespec time;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        core = time.tv_sec + 1e-9 * time.tv_nsec;
        ++blocked;
#endif
    }

    std::chrono::steady_clock::time_point wall_;
    double core_ = 0;
    long blocked_ = 0;
};

}  // namespace fastload

// The GIL is let go while native code works.
#pragma once

#include <pybind11/pybind11.h>
#include <time.h>

namespace fastload {

// CPU seconds that this thread has spent without the GIL; negative as long as nobody wants to know.
inline thread_local double cpu_seconds_without_gil = -1;

// Lets go of the GIL for its lifetime.
class WithoutGil {
public:
    WithoutGil() : began_(cpu_seconds_without_gil < 0 ? 0 : now()) {}
    ~WithoutGil() {
        if (cpu_seconds_without_gil >= 0) cpu_seconds_without_gil += now() - began_;
    }

private:
    static double now() {
        timespec time;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
    }

    pybind11::gil_scoped_release release_;  // before the clock is read, and until after
    const double began_;
};

}  // namespace fastload

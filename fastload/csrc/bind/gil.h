// Releases the GIL while native code works.
#pragma once

#include <Python.h>
#include <time.h>
#include <unistd.h>

namespace fastload {

// CPU seconds that this thread has spent without the GIL; negative if they are not measured.
inline thread_local double cpu_seconds_without_gil = -1;

// Runs something that takes the GIL. At exit, Python up to 3.13 ends other threads that ask for the GIL with
// pthread_exit, which no destructor lets through, so the process would abort. Instead such threads block until the
// process has ended, as in Python 3.14.
template <class Function>
void with_gil_or_never(Function function) {
    try {
        function();
    } catch (...) {
        while (true) pause();
    }
}

// Releases the GIL for its lifetime.
class WithoutGil {
public:
    WithoutGil() : thread_(PyEval_SaveThread()), began_(cpu_seconds_without_gil < 0 ? 0 : now()) {}
    WithoutGil(const WithoutGil&) = delete;
    ~WithoutGil() {
        if (cpu_seconds_without_gil >= 0) cpu_seconds_without_gil += now() - began_;
        with_gil_or_never([&] { PyEval_RestoreThread(thread_); });
    }

private:
    static double now() {
        timespec time;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
    }

    PyThreadState* const thread_;
    const double began_;
};

}  // namespace fastload

// The GIL is let go while native code works.
#pragma once

#include <Python.h>
#include <time.h>
#include <unistd.h>

namespace fastload {

// CPU seconds that this thread has spent without the GIL; negative as long as nobody wants to know.
inline thread_local double cpu_seconds_without_gil = -1;

// Does something that takes the GIL. When the interpreter ends, Python up to 3.13 ends all other threads that ask for the
// GIL, by pthread_exit. No destructor lets that through, so the process would abort. They stand still instead, as they do
// since Python 3.14, until the process is gone.
template <class Function>
void with_gil_or_never(Function function) {
    try {
        function();
    } catch (...) {
        while (true) pause();
    }
}

// Lets go of the GIL for its lifetime.
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

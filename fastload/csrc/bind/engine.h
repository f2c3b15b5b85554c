// The native engine of Python: takes plans as arrays and returns batches as tensors.
#pragma once

#include <sys/types.h>

#include <memory>
#include <vector>

#include "bindings.h"
#include "pool.h"
#include "process.h"

namespace fastload {

// Batches in flight, which are not freed while threads write to them.
struct Ticket {
    std::shared_ptr<Pool> pool;
    std::vector<std::shared_ptr<Job>> jobs;
    pid_t process;

    Ticket(std::shared_ptr<Pool> pool, std::vector<std::shared_ptr<Job>> jobs, pid_t process)
        : pool(std::move(pool)), jobs(std::move(jobs)), process(process) {}
    Ticket(const Ticket&) = delete;
    ~Ticket() {
        if (process != this_process()) {
            new std::shared_ptr<Pool>(std::move(pool));  // after a fork the threads are the parent's: see Engine::close
            return;
        }
        WithoutGil without_gil;
        for (const auto& job : jobs) pool->cancel(*job);
        jobs.clear();  // frees them before the GIL is taken again
        pool.reset();  // likewise: its threads may need the GIL
    }
};

// A lane of a pool. The pool and its cache live as long as any engine or ticket of the pool.
class Engine {
public:
    Engine(const Array<uint64_t>& addresses, const Array<uint64_t>& lengths, const Array<uint64_t>& checksums,
           int threads, int check, py::object owner, int in_flight, py::object allocate,
           std::shared_ptr<const PixelFormat> format, int emulated_microseconds, bool scaled_decoding);
    ~Engine() { close(); }
    void close();

    // Another lane of the same pool.
    std::shared_ptr<Engine> share() const;

    // See `fastload.engines.base.Engine`. User errors are std::invalid_argument.
    std::unique_ptr<Ticket> submit(py::handle plan, const std::vector<py::ssize_t>& ends, py::handle masks);
    std::vector<Failure> wait(const std::shared_ptr<Job>& job);
    // (B, 3, height, width) in the engine's format, as a DLPack capsule; None if there is no canvas yet.
    py::object images(const std::shared_ptr<Job>& job);
    // As `mask_tensors`, after `wait`; None if the plan was submitted without masks.
    py::object masks(const std::shared_ptr<Job>& job);
    bool done(const Ticket& ticket, size_t number) { return pool_->done(*job(ticket, number)); }
    py::tuple times();

    // A batch of a ticket, which must be of this engine.
    std::shared_ptr<Job> job(const Ticket& ticket, size_t number) const;

private:
    Engine(std::shared_ptr<Pool> pool, std::shared_ptr<CanvasReserve> reserve, int in_flight, py::object allocate,
           std::shared_ptr<const PixelFormat> format);
    // The pool, kept alive by the result: while the GIL is released, other threads may close the engine.
    std::shared_ptr<Pool> open_pool() const;
    void add_canvas();

    const pid_t process_;
    const int in_flight_;
    const py::object allocate_;
    const std::shared_ptr<const PixelFormat> format_;
    const std::shared_ptr<CanvasReserve> reserve_;  // shared by all engines of the pool
    const std::shared_ptr<Lane> lane_;
    std::shared_ptr<Pool> pool_;
    size_t largest_ = 0;  // bytes of the largest batch so far
};

}  // namespace fastload

// Memory for batches, reused after the user has dropped it: the kernel zeroes every page of fresh memory on first
// touch, which costs more than drawing an image into it.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace fastload {

struct CanvasMemory {
    uint8_t* data;
    size_t size;
    std::shared_ptr<void> owner;
};

// Memory that one iterator leaves for the next, so that an epoch starts with pages that are mapped. Thread-safe.
class CanvasReserve {
public:
    explicit CanvasReserve(int most) : most_(size_t(most)) {}
    // Memory of `size` bytes or more, or none. Frees memory that is smaller.
    std::optional<CanvasMemory> take(size_t size);
    // Keeps as much as there is room for, and frees the rest. Do not hold a lock that a thread with the GIL waits for.
    void give(std::vector<CanvasMemory> memories);

private:
    const size_t most_;
    std::mutex mutex_;
    std::vector<CanvasMemory> kept_;
};

// Lends memory to batches in flight, and limits their number: a batch without a canvas waits for one. Thread-safe. It
// does not allocate or free memory itself, since that may need the GIL: a caller with the GIL regularly asks how much
// is `lacking` and takes the `discarded` memory.
class CanvasRing : public std::enable_shared_from_this<CanvasRing> {
public:
    // A loan of memory, returned on destruction.
    class Lease {
    public:
        Lease(CanvasMemory memory, std::shared_ptr<CanvasRing> ring);
        ~Lease();
        uint8_t* data() const { return memory_.data; }
        void hand_out();  // the batch is finished and belongs to the user

    private:
        CanvasMemory memory_;
        std::shared_ptr<CanvasRing> ring_;
        bool handed_out_ = false;
    };

    // For `in_flight` batches that are being executed or wait for the user.
    CanvasRing(int in_flight, std::shared_ptr<CanvasReserve> reserve);

    int in_flight() const { return in_flight_; }

    // Memory of `size` bytes or more with arbitrary content; null if there is none.
    std::shared_ptr<Lease> lease(size_t size);

    // How many more canvases are needed to keep `in_flight` batches going, besides those of the user.
    int lacking();
    void add(CanvasMemory memory);

    // No more batches will be made: memory goes to the reserve, also memory that is returned later.
    void retire();

    // Memory that is too small or not needed. Free it outside of all locks.
    std::vector<CanvasMemory> discarded();

private:
    void take_back(CanvasMemory memory, bool handed_out);
    size_t here() const { return free_.size() + lent_; }

    const int in_flight_;
    const std::shared_ptr<CanvasReserve> reserve_;
    const pid_t process_;
    std::mutex mutex_;
    bool retired_ = false;
    std::vector<CanvasMemory> free_, discarded_;
    size_t lent_ = 0;  // to batches in flight
};

}  // namespace fastload

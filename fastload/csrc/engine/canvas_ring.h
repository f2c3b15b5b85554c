// Memory for batches, used again as soon as nobody sees it: fresh memory costs more than drawing an image into it, since
// the kernel zeroes every page on first touch.
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

// Memory that one iterator has left for the next: epochs begin with pages that are there. Safe to use from several threads.
class CanvasReserve {
public:
    explicit CanvasReserve(int most) : most_(size_t(most)) {}
    // Memory of `size` bytes or more, or none. Whatever is smaller is freed.
    std::optional<CanvasMemory> take(size_t size);
    // Keeps what there is room for, frees the rest. No lock may be held that a thread with the GIL waits for.
    void give(std::vector<CanvasMemory> memories);

private:
    const size_t most_;
    std::mutex mutex_;
    std::vector<CanvasMemory> kept_;
};

// Lends memory to batches in the making. It is the batches' limit too: those without a canvas have to wait for one.
// Safe to use from several threads. It makes and frees no memory itself, since that may need the GIL: whoever has it
// asks now and then what is `lacking` and takes what was `discarded`.
class CanvasRing : public std::enable_shared_from_this<CanvasRing> {
public:
    // Memory on loan, which goes back with this.
    class Lease {
    public:
        Lease(CanvasMemory memory, std::shared_ptr<CanvasRing> ring);
        ~Lease();
        uint8_t* data() const { return memory_.data; }
        void hand_out();  // the batch is made and the user's now

    private:
        CanvasMemory memory_;
        std::shared_ptr<CanvasRing> ring_;
        bool handed_out_ = false;
    };

    // For `in_flight` batches that are being made or wait for the user.
    CanvasRing(int in_flight, std::shared_ptr<CanvasReserve> reserve);

    int in_flight() const { return in_flight_; }

    // Memory of `size` bytes or more with arbitrary content; null when there is none.
    std::shared_ptr<Lease> lease(size_t size);

    // How many more canvases it takes to keep `in_flight` batches going, beside what the user has.
    int lacking();
    void add(CanvasMemory memory);

    // No batches will be made any more: memory goes to the reserve, also what comes back later.
    void retire();

    // Memory that is too small, or more than is wanted. To be freed outside of all locks.
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
    size_t lent_ = 0;  // to batches in the making
};

}  // namespace fastload

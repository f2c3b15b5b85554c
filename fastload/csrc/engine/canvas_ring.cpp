#include "canvas_ring.h"

#include <utility>

#include "process.h"

namespace fastload {

std::optional<CanvasMemory> CanvasReserve::take(size_t size) {
    std::vector<CanvasMemory> small;  // freed after the lock
    std::lock_guard<std::mutex> lock(mutex_);
    while (!kept_.empty()) {
        CanvasMemory memory = std::move(kept_.back());
        kept_.pop_back();
        if (memory.size >= size) return memory;
        small.push_back(std::move(memory));
    }
    return std::nullopt;
}

void CanvasReserve::give(std::vector<CanvasMemory> memories) {
    std::lock_guard<std::mutex> lock(mutex_);  // freed after unlocking
    while (!memories.empty() && kept_.size() < most_) {
        kept_.push_back(std::move(memories.back()));
        memories.pop_back();
    }
}

CanvasRing::Lease::Lease(CanvasMemory memory, std::shared_ptr<CanvasRing> ring)
    : memory_(std::move(memory)), ring_(std::move(ring)) {}

CanvasRing::Lease::~Lease() {
    if (ring_->process_ == this_process())
        ring_->take_back(std::move(memory_), handed_out_);
    else  // after a fork the lock may be held for good, and nothing is made here any more
        new CanvasMemory(std::move(memory_));
}

void CanvasRing::Lease::hand_out() {
    std::lock_guard<std::mutex> lock(ring_->mutex_);
    if (!handed_out_) --ring_->lent_;
    handed_out_ = true;
}

CanvasRing::CanvasRing(int in_flight, std::shared_ptr<CanvasReserve> reserve)
    : in_flight_(in_flight), reserve_(std::move(reserve)), process_(this_process()) {}

std::shared_ptr<CanvasRing::Lease> CanvasRing::lease(size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!free_.empty()) {
        CanvasMemory memory = std::move(free_.back());  // the one used last, which is most likely in the CPU's caches
        free_.pop_back();
        if (memory.size >= size) {
            ++lent_;
            return std::make_shared<Lease>(std::move(memory), shared_from_this());
        }
        discarded_.push_back(std::move(memory));  // too small: batches have grown
    }
    return nullptr;
}

int CanvasRing::lacking() {
    std::lock_guard<std::mutex> lock(mutex_);
    // The user holds two batches for a moment, when a new one replaces the old, which comes back then.
    return in_flight_ - 1 - int(here());
}

void CanvasRing::add(CanvasMemory memory) {
    std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(memory));
}

std::vector<CanvasMemory> CanvasRing::discarded() {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!free_.empty() && int(here()) > in_flight_ + 1) {  // the user held many and has dropped them
        discarded_.push_back(std::move(free_.back()));
        free_.pop_back();
    }
    return std::exchange(discarded_, {});
}

void CanvasRing::take_back(CanvasMemory memory, bool handed_out) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!handed_out) --lent_;
    free_.push_back(std::move(memory));
    if (!retired_) return;
    std::vector<CanvasMemory> left = std::exchange(free_, {});
    lock.unlock();
    reserve_->give(std::move(left));
}

void CanvasRing::retire() {
    std::unique_lock<std::mutex> lock(mutex_);
    retired_ = true;
    std::vector<CanvasMemory> left = std::exchange(free_, {});
    lock.unlock();
    reserve_->give(std::move(left));
}

}  // namespace fastload

// Executes plans on native threads: (batch, slot) pairs from queues, several batches under way, no barrier between them.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "canvas_ring.h"
#include "record.h"
#include "render.h"
#include "times.h"

namespace fastload {

struct Record {
    const uint8_t* data;
    size_t size;
    uint64_t checksum;  // the one that the index knows
};

// When a record is checked against the checksums in its header and in the index.
enum class Check : int { never, first, always };

// The records of a cache.
class Records {
public:
    Records(std::vector<Record> records, Check check)
        : records_(std::move(records)), checked_(records_.size()), check_(check) {}
    size_t size() const { return records_.size(); }
    const Record& operator[](size_t i) const { return records_[i]; }
    void decode(size_t i, RecordDecoder& decoder, Buffer& buffer, Planes& planes);
    // False when pages of the record have vanished, so that what was read of it may have been zeros.
    bool there(size_t i) const;

private:
    std::vector<Record> records_;
    std::vector<std::atomic<bool>> checked_;
    Check check_;
};

struct Failure {
    int row;
    std::string reason;
};

struct Lane;

// A batch to be written.
struct Job {
    Canvas canvas;
    std::vector<int64_t> index;         // (N) records
    std::vector<Placement> placements;  // (N)
    std::vector<int> first_row;         // (B + 1) rows of a slot

    int slots() const { return int(first_row.size()) - 1; }
    size_t canvas_bytes() const { return canvas.bytes(); }

private:
    friend class Pool;
    std::shared_ptr<Lane> lane;                 // guarded by the pool's mutex, as all that follows
    std::shared_ptr<CanvasRing::Lease> memory;  // once there was a canvas
    int next = 0, running = 0;
    std::vector<Failure> failures;
    std::condition_variable done;
    bool announced = false;
    bool shown = false, waited_for = false;  // to and by the user, whose canvas it then is too
};

enum class Waited { finished, unfinished, no_canvas };

// The batches of one iterator: they are executed in order and share a budget of canvases, which no other iterator uses.
struct Lane {
    Lane(int in_flight, std::shared_ptr<CanvasReserve> reserve)
        : ring(std::make_shared<CanvasRing>(in_flight, std::move(reserve))) {}
    const std::shared_ptr<CanvasRing> ring;

private:
    friend class Pool;
    std::deque<std::shared_ptr<Job>> queue;  // not all of whose slots are begun; guarded by the pool's mutex
    std::weak_ptr<Job> handed_out;           // the latest
};

class Pool {
public:
    // `owner` keeps the memory of the records. With `emulated`, nothing is decoded or written: each record takes that
    // long asleep, as if on a core of its own.
    Pool(std::vector<Record> records, std::shared_ptr<void> owner, int threads, Check check,
         std::chrono::microseconds emulated = {});
    ~Pool();  // waits for the slots that are being written, no others

    const Records& records() const { return records_; }
    // Each is begun as soon as there is a canvas for it, in this order. Lanes take turns. The caller keeps each until it
    // was cancelled, or the pool is gone.
    void submit(const std::shared_ptr<Lane>& lane, const std::vector<std::shared_ptr<Job>>& jobs);
    // Where a batch is, its canvases one after another. Null, to be asked again, as long as there is no canvas for it.
    std::shared_ptr<CanvasRing::Lease> show(const std::shared_ptr<Job>& job);
    // Both may be called again for the latest batch of a lane, in case the answer was lost on its way, by Ctrl-C.
    // Waits up to `milliseconds` for the job to be finished. With no threads, does the work itself, in as many calling
    // threads as there are. Finds a canvas for a batch out of turn, if there is one at all.
    Waited wait(const std::shared_ptr<Job>& job, int milliseconds);
    bool done(const Job& job);
    // Gives up the slots not begun and waits for those being written: then nobody touches the canvas any more.
    void cancel(Job& job);
    std::vector<Failure> failures(const Job& job);
    // Since the pool began. What a thread is at now is not yet counted.
    Times times();

private:
    struct Workspace {
        RecordDecoder decoder;
        TableCache tables;
        std::vector<Buffer> planes;
        std::vector<Picture> pictures;
        Buffer row;
        std::chrono::nanoseconds overslept{};  // when emulating
    };
    void work();
    // The mutex is held in these.
    void wake_up();                      // threads without work, if the user has let go of a canvas
    static bool has_canvas(Job& job);    // if there is one
    bool is_finished(const Job& job) const { return job.next == job.slots() && !job.running; }
    // A finished batch belongs to those who see it, and to nobody else once another one of its lane is wanted.
    static void hand_out(const std::shared_ptr<Job>& job);
    static void let_go_before(const std::shared_ptr<Job>& job);
    std::shared_ptr<Job> next();                  // the first queued batch with a canvas of the lane whose turn it is, or none
    static std::shared_ptr<Job> next(Lane& lane);
    int take(Job& job);                           // the next slot
    void leave_queue(const Job& job);
    // The records of a batch soon to be begun, which is now marked as announced; none if all are.
    std::vector<int64_t> unannounced(const Lane& lane);

    void announce(const std::vector<int64_t>& index) const;  // have a cold disk read the records ahead of their use
    void finish(Job& job, std::vector<Failure> failures, const Times& times);
    std::vector<Failure> write(const Job& job, int slot, uint8_t* out, Workspace& workspace);

    const std::shared_ptr<void> owner_;  // released last
    Records records_;
    const std::chrono::microseconds emulated_;
    std::mutex mutex_;
    std::condition_variable work_;
    std::deque<std::shared_ptr<Lane>> lanes_;  // those with queued batches; the first is the one whose turn it is
    bool stopping_ = false;
    Times times_;  // guarded by the mutex
    std::vector<std::thread> threads_;
    std::vector<std::unique_ptr<Workspace>> idle_;  // of calling threads that have done work; guarded by the mutex
};

}  // namespace fastload

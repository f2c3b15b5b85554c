// Executes plans on native threads: (batch, slot) pairs from queues, several batches in flight, no barrier between
// them.
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
#include "mask_batch.h"
#include "record.h"
#include "render.h"
#include "times.h"

namespace fastload {

struct Record {
    const uint8_t* data;
    size_t size;
    uint64_t checksum;  // from the index
};

// When to verify a record against the checksums in its header and in the index.
enum class Check : int { never, first, always };

// The records of a cache.
class Records {
public:
    Records(std::vector<Record> records, Check check)
        : records_(std::move(records)), checked_(records_.size()), check_(check) {}
    size_t size() const { return records_.size(); }
    const Record& operator[](size_t i) const { return records_[i]; }
    void decode(size_t i, RecordDecoder& decoder, Buffer& buffer, Planes& planes, const Region& region);
    // False if pages of the record have vanished, so that zeros may have been read.
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

// A batch to execute.
struct Job {
    Canvas canvas;
    std::vector<int64_t> index;         // (N) records; not of rows without a source
    std::vector<Placement> placements;  // (N)
    std::vector<int> first_row;         // (B + 1) the first row of each slot
    std::shared_ptr<const MaskBatch> masks;  // null: none

    int slots() const { return int(first_row.size()) - 1; }
    size_t canvas_bytes() const { return canvas.bytes(); }
    // Masks follow the canvases in memory.
    size_t masks_at() const { return (slots() * canvas_bytes() + 63) / 64 * 64; }
    size_t bytes() const { return masks ? masks_at() + masks->bytes() : slots() * canvas_bytes(); }

private:
    friend class Pool;
    std::shared_ptr<Lane> lane;                 // guarded by the pool's mutex, like everything below
    std::shared_ptr<CanvasRing::Lease> memory;  // null before there is a canvas
    int next = 0, running = 0;
    std::vector<Failure> failures;
    std::condition_variable done;
    bool announced = false;
    bool shown = false, waited_for = false;  // to and by the user, who then owns the canvas too
};

enum class Waited { finished, unfinished, no_canvas };

// The batches of one iterator. They are executed in order and share a budget of canvases of their own.
struct Lane {
    Lane(int in_flight, std::shared_ptr<CanvasReserve> reserve)
        : ring(std::make_shared<CanvasRing>(in_flight, std::move(reserve))) {}
    const std::shared_ptr<CanvasRing> ring;

private:
    friend class Pool;
    std::deque<std::shared_ptr<Job>> queue;  // batches with slots not begun; guarded by the pool's mutex
    std::weak_ptr<Job> handed_out;           // the latest
};

class Pool {
public:
    // `owner` keeps the memory of the records alive. With `emulated`, nothing is decoded or written: each record takes
    // this time asleep, as if it had a core of its own. `scaled`: images that shrink are decoded at a smaller size.
    Pool(std::vector<Record> records, std::shared_ptr<void> owner, int threads, Check check,
         std::chrono::microseconds emulated = {}, bool scaled = true);
    ~Pool();  // waits only for the slots that are being written

    const Records& records() const { return records_; }
    // Each is begun as soon as there is a canvas for it, in this order. Lanes take turns. The caller keeps each alive
    // until it is cancelled or the pool is gone.
    void submit(const std::shared_ptr<Lane>& lane, const std::vector<std::shared_ptr<Job>>& jobs);
    // The canvases of a batch, contiguous. Null as long as there is no canvas for it; ask again later.
    std::shared_ptr<CanvasRing::Lease> show(const std::shared_ptr<Job>& job);
    // The memory of a batch that was waited for, before another one of its lane is asked for.
    std::shared_ptr<CanvasRing::Lease> memory(const Job& job);
    // Waits up to `milliseconds` for the job to finish. Without threads, the calling threads do the work. Gives the
    // batch a canvas out of turn, if there is one. Like `show`, it may be called again for the latest batch of a lane,
    // in case Ctrl-C lost the answer.
    Waited wait(const std::shared_ptr<Job>& job, int milliseconds);
    bool done(const Job& job);
    // Drops the slots not begun and waits for those being written; no thread touches the canvas after that.
    void cancel(Job& job);
    std::vector<Failure> failures(const Job& job);
    // Times since the pool began, without the present work of each thread.
    Times times();

private:
    struct Workspace {
        RecordDecoder decoder;
        TableCache tables;
        std::vector<Buffer> planes;
        std::vector<PlacedRow> rows;
        std::vector<Buffer> cutouts;  // bits of rows
        Buffer line;
        MaskBatch::Workspace masks;
        std::chrono::nanoseconds overslept{};  // when emulating
    };
    void work();
    // Call these with the mutex held.
    void wake_up();                      // idle threads, if the user has returned a canvas
    static bool has_canvas(Job& job);    // takes a canvas if there is one
    bool is_finished(const Job& job) const { return job.next == job.slots() && !job.running; }
    // A finished batch belongs to its users alone as soon as another batch of its lane is requested.
    static void hand_out(const std::shared_ptr<Job>& job);
    static void let_go_before(const std::shared_ptr<Job>& job);
    std::shared_ptr<Job> next();                  // the first batch with a canvas in the lane whose turn it is, or null
    static std::shared_ptr<Job> next(Lane& lane);
    int take(Job& job);                           // the next slot
    void leave_queue(const Job& job);
    // The records of a batch to be begun soon, which is then marked as announced; empty if all are.
    std::vector<int64_t> unannounced(const Lane& lane);

    void announce(const std::vector<int64_t>& index) const;  // makes a cold disk read the records ahead of use
    void finish(Job& job, std::vector<Failure> failures, const Times& times);
    std::vector<Failure> write(const Job& job, int slot, uint8_t* out, Workspace& workspace);

    const std::shared_ptr<void> owner_;  // released last
    Records records_;
    const std::chrono::microseconds emulated_;
    const bool scaled_;
    std::mutex mutex_;
    std::condition_variable work_;
    std::deque<std::shared_ptr<Lane>> lanes_;  // lanes with queued batches; it is the first one's turn
    bool stopping_ = false;
    Times times_;  // guarded by the mutex
    std::vector<std::thread> threads_;
    std::vector<std::unique_ptr<Workspace>> idle_;  // of calling threads that have worked; guarded by the mutex
};

}  // namespace fastload

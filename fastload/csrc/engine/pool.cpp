#include "pool.h"

#include "fault.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace fastload {
namespace {

constexpr char vanished[] =
    "its bytes vanished: the file was truncated or overwritten while it was read, or its disk is failing";

// Timers wake up late, by up to a tenth of a millisecond in a virtual machine. The next sleep is shorter by that, so
// that emulated work takes the given time.
void sleep(std::chrono::nanoseconds time, std::chrono::nanoseconds& overslept) {
    const auto end = std::chrono::steady_clock::now() + time - overslept;
    std::this_thread::sleep_until(end);
    overslept = std::chrono::steady_clock::now() - end;
}

}  // namespace

void Records::decode(size_t i, RecordDecoder& decoder, Buffer& buffer, Planes& planes, const Region& region) {
    const bool check =
        check_ == Check::always || (check_ == Check::first && !checked_[i].load(std::memory_order_relaxed));
    const Record& record = records_[i];
    if (check && read_header(record.data, record.size).checksum != record.checksum)
        throw RecordError("it is not the record that the index knows");
    decoder.planes(record.data, record.size, check, buffer, planes, region);
    if (check) checked_[i].store(true, std::memory_order_relaxed);
}

bool Records::there(size_t i) const {
    const Record& record = records_[i];
    return intact(record.data) || has_checksum(record.data, record.size, record.checksum);
}

Pool::Pool(std::vector<Record> records, std::shared_ptr<void> owner, int threads, Check check,
           std::chrono::microseconds emulated, bool scaled)
    : owner_(std::move(owner)), records_(std::move(records), check), emulated_(emulated), scaled_(scaled) {
    turbojpeg_path();  // throws here rather than in a thread if there is no library
    kernels();         // likewise if FASTLOAD_SIMD is wrong
    max_pixels();      // or FASTLOAD_MAX_PIXELS
    for (int t = 0; t < threads; ++t) threads_.emplace_back([this] { work(); });
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    for (const auto& lane : lanes_) lane->queue.clear();  // batches that were not cancelled and keep their lane alive
}

void Pool::submit(const std::shared_ptr<Lane>& lane, const std::vector<std::shared_ptr<Job>>& jobs) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (lane->queue.empty() && !jobs.empty()) lanes_.push_back(lane);
        for (const auto& job : jobs) {
            job->lane = lane;
            lane->queue.push_back(job);
        }
    }
    work_.notify_all();
}

void Pool::wake_up() {
    if (next()) work_.notify_all();
}

std::shared_ptr<CanvasRing::Lease> Pool::show(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    let_go_before(job);
    if (job->shown && !job->memory) throw std::invalid_argument("the batch's images were asked for before");
    job->shown = has_canvas(*job);
    hand_out(job);
    return job->memory;
}

std::shared_ptr<CanvasRing::Lease> Pool::memory(const Job& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!job.waited_for || !job.memory) throw std::invalid_argument("masks must be asked for after waiting for them");
    return job.memory;
}

bool Pool::has_canvas(Job& job) {
    if (!job.memory) job.memory = job.lane->ring->lease(job.bytes());
    return job.memory != nullptr;
}

std::shared_ptr<Job> Pool::next() {
    for (size_t k = 0; k < lanes_.size(); ++k) {
        if (std::shared_ptr<Job> job = next(*lanes_[k])) {
            std::rotate(lanes_.begin(), lanes_.begin() + k, lanes_.end());
            return job;
        }
    }
    return nullptr;
}

std::shared_ptr<Job> Pool::next(Lane& lane) {
    bool in_turn = true;  // a later batch does not take a canvas from an earlier one
    for (const std::shared_ptr<Job>& job : lane.queue) {
        if (in_turn ? has_canvas(*job) : job->memory != nullptr) return job;
        in_turn = false;
    }
    return nullptr;
}

std::vector<int64_t> Pool::unannounced(const Lane& lane) {
    const size_t soon = std::min(lane.queue.size(), size_t(lane.ring->in_flight()));
    for (size_t k = 0; k < soon; ++k)
        if (!lane.queue[k]->announced) {
            lane.queue[k]->announced = true;
            return lane.queue[k]->index;
        }
    return {};
}

void Pool::announce(const std::vector<int64_t>& index) const {
    static const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    for (int64_t i : index) {
        if (i < 0) continue;  // a row without a source
        const uintptr_t begin = reinterpret_cast<uintptr_t>(records_[i].data) & ~(page - 1);
        const uintptr_t end = reinterpret_cast<uintptr_t>(records_[i].data) + records_[i].size;
        madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
    }
}

int Pool::take(Job& job) {
    ++job.running;
    if (job.next + 1 == job.slots()) {
        const std::shared_ptr<Lane> lane = job.lane;
        leave_queue(job);
        if (lanes_.size() > 1 && lanes_.front() == lane) {  // a batch was begun: the next is another lane's
            lanes_.pop_front();
            lanes_.push_back(lane);
        }
    }
    return job.next++;
}

void Pool::leave_queue(const Job& job) {
    if (!job.lane) return;
    auto& queue = job.lane->queue;
    const auto place = std::find_if(queue.begin(), queue.end(), [&](const auto& other) { return other.get() == &job; });
    if (place == queue.end()) return;
    queue.erase(place);
    if (queue.empty()) lanes_.erase(std::find(lanes_.begin(), lanes_.end(), job.lane));
}

void Pool::finish(Job& job, std::vector<Failure> failures, const Times& times) {
    std::lock_guard<std::mutex> lock(mutex_);
    times_ += times;
    --job.running;
    job.failures.insert(job.failures.end(), failures.begin(), failures.end());
    if (is_finished(job)) job.done.notify_all();
}

void Pool::work() {
    Workspace workspace;
    Stopwatch watch;
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        Job* job = nullptr;  // not a shared pointer: the last owner of a batch frees memory, which may need the GIL
        if (!stopping_ && !(job = next().get())) {
            work_.wait(lock, [&] { return stopping_ || (job = next().get()); });
            times_ += watch.idle();
        }
        if (stopping_) return;
        const int slot = take(*job);
        uint8_t* const out = job->memory->data();
        const std::vector<int64_t> ahead = unannounced(*job->lane);
        lock.unlock();
        watch.start();  // waiting for the lock does not count as work
        announce(ahead);
        std::vector<Failure> failures = write(*job, slot, out, workspace);
        finish(*job, std::move(failures), watch.lap());
        lock.lock();
    }
}

Waited Pool::wait(const std::shared_ptr<Job>& wanted, int milliseconds) {
    Job& job = *wanted;
    std::unique_lock<std::mutex> lock(mutex_);
    let_go_before(wanted);
    if (job.waited_for && job.shown && !job.memory) throw std::invalid_argument("the batch was waited for before");
    if (!has_canvas(job)) return Waited::no_canvas;
    if (!threads_.empty()) {
        const auto lane = std::find(lanes_.begin(), lanes_.end(), job.lane);
        if (lane != lanes_.end()) std::rotate(lanes_.begin(), lane, lane + 1);  // a caller waits for it: its turn
        wake_up();
        job.done.wait_for(lock, std::chrono::milliseconds(milliseconds), [&] { return is_finished(job); });
    } else if (job.next < job.slots()) {
        std::unique_ptr<Workspace> workspace;
        if (idle_.empty()) {
            workspace = std::make_unique<Workspace>();
        } else {
            workspace = std::move(idle_.back());
            idle_.pop_back();
        }
        const int slot = take(job);
        uint8_t* const out = job.memory->data();
        lock.unlock();
        Stopwatch watch;
        std::vector<Failure> failures = write(job, slot, out, *workspace);
        finish(job, std::move(failures), watch.lap());
        lock.lock();
        idle_.push_back(std::move(workspace));
    }
    if (!is_finished(job)) return Waited::unfinished;
    job.waited_for = true;
    hand_out(wanted);
    return Waited::finished;
}

void Pool::hand_out(const std::shared_ptr<Job>& job) {
    if (!job->shown || !job->waited_for || !job->memory) return;
    job->memory->hand_out();
    job->lane->handed_out = job;
}

void Pool::let_go_before(const std::shared_ptr<Job>& job) {
    const std::shared_ptr<Job> former = job->lane->handed_out.lock();
    if (!former || former == job) return;
    former->memory = nullptr;
    job->lane->handed_out.reset();
}

bool Pool::done(const Job& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    return is_finished(job);
}

void Pool::cancel(Job& job) {
    std::shared_ptr<CanvasRing::Lease> memory;  // returned after unlocking, since freeing it may need the GIL
    std::unique_lock<std::mutex> lock(mutex_);
    job.next = job.slots();
    leave_queue(job);
    job.done.wait(lock, [&] { return !job.running; });
    memory = std::move(job.memory);
}

std::vector<Failure> Pool::failures(const Job& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    return job.failures;
}

Times Pool::times() {
    std::lock_guard<std::mutex> lock(mutex_);
    return times_;
}

static void cut_out(const Job& job, int row, Buffer& memory, MaskBatch::Workspace& workspace, PlacedRow& placed) {
    if (!job.masks) throw std::runtime_error("its objects are cut out by their masks, which the batch does not have");
    const size_t row_bytes = mask_row_bytes(job.canvas.width);
    uint8_t* const bits = memory.ensure(row_bytes * size_t(job.canvas.height));
    job.masks->draw_cutout(row, job.placements[row], job.canvas.width, job.canvas.height, bits, workspace);
    placed.set_cutout(bits, row_bytes);
}

std::vector<Failure> Pool::write(const Job& job, int slot, uint8_t* out, Workspace& workspace) {
    const int first = job.first_row[slot], count = job.first_row[slot + 1] - first;
    std::vector<Failure> failures;
    if (emulated_.count() > 0) {
        int sources = 0;
        for (int row = first; row < first + count; ++row) sources += job.placements[row].kind == Kind::source;
        sleep(sources * emulated_, workspace.overslept);
        return failures;
    }
    int row = first;
    try {
        workspace.planes.resize(std::max(workspace.planes.size(), size_t(count)));
        workspace.rows.resize(std::max(workspace.rows.size(), size_t(count)));
        workspace.cutouts.resize(workspace.rows.size());
        for (; row < first + count; ++row) try {
                PlacedRow& placed = workspace.rows[row - first];
                placed.open(job.placements[row]);
                if (!placed.needs_source()) continue;
                Planes planes;
                records_.decode(size_t(job.index[row]), workspace.decoder, workspace.planes[row - first], planes,
                                placed.region(scaled_));
                placed.set_source(planes, workspace.tables);
                if (job.placements[row].cutout) cut_out(job, row, workspace.cutouts[row - first], workspace.masks, placed);
            } catch (const std::runtime_error& error) {  // this image is damaged; check the others of its slot too
                failures.push_back({row, records_.there(size_t(job.index[row])) ? error.what() : vanished});
            }
        const auto draw = [&](int rows) {
            render(job.canvas, workspace.rows, rows, workspace.line, out + slot * job.canvas_bytes());
        };
        if (failures.empty() && job.masks) try {
                job.masks->draw(slot, job.placements.data(), out + job.masks_at(), workspace.masks);
            } catch (const MaskError& error) {
                failures.push_back({error.row, error.what()});
            }
        if (failures.empty()) {
            draw(count);  // also reads records, since planes are not copied
            for (row = first; row < first + count; ++row)
                if (workspace.rows[row - first].needs_source() && !records_.there(size_t(job.index[row])))
                    failures.push_back({row, vanished});
        }
        if (!failures.empty()) draw(0);
    } catch (const std::exception& error) {  // such as out of memory: exceptions must not leave a thread
        failures.push_back({std::min(row, first + count - 1), error.what()});
    }
    return failures;
}

}  // namespace fastload

// Batches submitted, waited for, kept, dropped and given up by several threads over one pool, in one lane that they share
// and in lanes of their own, with threads and without. Work on an image is a short sleep: for the thread sanitizer.
// Memory is counted; a canvas that two batches have is an error. As in Python, a lock that is held in `show` and let go
// of in all else is needed to free memory.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "pool.h"

using namespace fastload;

namespace {

std::mutex gil;
thread_local bool has_gil = false;

struct WithGil {
    WithGil() : mine(!has_gil) {
        if (mine) gil.lock();
        has_gil = true;
    }
    ~WithGil() {
        if (!mine) return;
        has_gil = false;
        gil.unlock();
    }
    const bool mine;
};

std::atomic<int> memories{0}, owners{0};
std::mutex in_use_mutex;
std::set<uint8_t*> in_use;

void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

CanvasMemory memory(size_t size) {
    ++memories;
    auto* const data = static_cast<uint8_t*>(std::malloc(size));
    return {data, size, {data, [](void* p) {
                             WithGil needed;
                             std::free(p), --memories;
                         }}};
}

// A batch that the user sees.
struct Seen {
    explicit Seen(std::shared_ptr<CanvasRing::Lease> lease) : lease(std::move(lease)) {
        std::lock_guard<std::mutex> lock(in_use_mutex);
        if (!in_use.insert(this->lease->data()).second) fail("a canvas is used twice");
    }
    Seen(const Seen&) = delete;
    ~Seen() {
        std::lock_guard<std::mutex> lock(in_use_mutex);
        in_use.erase(lease->data());
    }
    std::shared_ptr<CanvasRing::Lease> lease;
};

std::shared_ptr<Job> job(int slots, int width) {
    auto made = std::make_shared<Job>();
    made->canvas = {8, width, {0, 0, 0}};
    for (int s = 0; s <= slots; ++s) made->first_row.push_back(s);
    made->index.assign(size_t(slots), 0);
    made->placements.resize(size_t(slots));
    return made;
}

// What the engine adds to a ring: what an earlier lane has left, or something new.
CanvasMemory canvas(CanvasReserve& reserve) {
    std::optional<CanvasMemory> left = reserve.take(3 * 8 * 32 * 3);
    return left ? std::move(*left) : memory(3 * 8 * 32 * 3);
}

// What the engine does for a batch; `again`: as when an answer is lost on its way, which only a lane's latest batch allows.
std::unique_ptr<Seen> get(Pool& pool, CanvasRing& ring, CanvasReserve& reserve, const std::shared_ptr<Job>& job,
                          bool again) {
    const auto show = [&] {
        WithGil as_in_python;
        return pool.show(job);
    };
    auto lease = show();
    for (auto waited = Waited::unfinished; waited != Waited::finished; waited = pool.wait(job, 5))
        if (waited == Waited::no_canvas) ring.add(canvas(reserve));
    if (!lease) lease = show();
    if (again && (pool.wait(job, 5) != Waited::finished || show() != lease || !pool.done(*job)))
        fail("a batch that was waited for is another one when it is again");
    return std::make_unique<Seen>(std::move(lease));
}

void use(std::shared_ptr<Pool> pool, std::shared_ptr<CanvasReserve> reserve, std::shared_ptr<Lane> lane, bool alone,
         unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::unique_ptr<Seen>> kept;
    double working = 0;
    for (int round = 0; round < 20; ++round) {
        if (alone && round) {
            lane->ring->retire();
            lane = std::make_shared<Lane>(1 + int(random() % 4), reserve);  // the old one goes, while others work
        }
        CanvasRing& ring = *lane->ring;
        std::vector<std::shared_ptr<Job>> jobs;
        for (int k = 0; k < 6; ++k) jobs.push_back(job(1 + int(random() % 3), 8 << random() % 3));
        pool->submit(lane, jobs);
        const size_t wanted = random() % 7;  // the others are given up
        for (size_t k = 0; k < jobs.size(); ++k) {
            if (k < wanted) kept.push_back(get(*pool, ring, *reserve, jobs[k], alone && random() % 2));
            pool->cancel(*jobs[k]);
            if (kept.size() > 3) kept.erase(kept.begin() + random() % kept.size());
        }
        for (int lacking = ring.lacking(); lacking > 0; --lacking) ring.add(canvas(*reserve));
        ring.discarded();
        const Times times = pool->times();
        if (times.working < working) fail("time runs backwards");
        working = times.working;
    }
    lane.reset();
    if (random() % 2) kept.clear();
    pool.reset();  // by the last one: ends the threads
}

}  // namespace

int main() {
    static const uint8_t nothing[1] = {};
    for (int threads : {3, 1, 0, 3, 1, 0}) {
        ++owners;
        std::shared_ptr<void> owner(&owners, [](void*) {
            WithGil needed;
            --owners;
        });
        auto pool = std::make_shared<Pool>(std::vector<Record>{{nothing, 1, 0}}, std::move(owner), threads, Check::never,
                                           std::chrono::microseconds(30));
        auto reserve = std::make_shared<CanvasReserve>(5);
        auto shared = std::make_shared<Lane>(4, reserve);
        std::vector<std::thread> users;
        for (unsigned seed = 0; seed < 6; ++seed) {
            const bool alone = seed >= 3;
            const auto lane = alone ? std::make_shared<Lane>(int(seed) - 2, reserve) : shared;
            users.emplace_back(use, pool, reserve, lane, alone, seed);
        }
        pool.reset();
        shared.reset();
        for (std::thread& user : users) user.join();
        reserve.reset();
        if (memories) fail("memory was lost");
        if (owners) fail("the pool did not let go of what its records are in");
    }
    std::puts("done");
}

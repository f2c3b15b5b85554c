// Batches submitted, waited for, kept, dropped and given up by several threads over one pool, in one lane that they share
// and in lanes of their own, with threads and without. Work on an image is a short sleep: for the thread sanitizer.
// Memory is counted; a canvas that two batches have is an error.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

#include "pool.h"

using namespace fastload;

namespace {

std::atomic<int> memories{0};
std::mutex in_use_mutex;
std::set<uint8_t*> in_use;

void fail(const char* what) {
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}

CanvasMemory memory(size_t size) {
    ++memories;
    auto* const data = static_cast<uint8_t*>(std::malloc(size));
    return {data, size, {data, [](void* p) { std::free(p), --memories; }}};
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

void use(Pool& pool, std::shared_ptr<Lane> lane, unsigned seed) {
    CanvasRing& ring = *lane->ring;
    std::mt19937 random(seed);
    std::vector<std::unique_ptr<Seen>> kept;
    for (int round = 0; round < 40; ++round) {
        std::vector<std::shared_ptr<Job>> jobs;
        for (int k = 0; k < 6; ++k) jobs.push_back(job(1 + int(random() % 3), 8 << random() % 3));
        pool.submit(lane, jobs);
        const size_t wanted = random() % 7;  // the others are given up
        for (size_t k = 0; k < jobs.size(); ++k) {
            if (k < wanted) {
                auto lease = pool.show(jobs[k]);
                for (auto waited = Waited::unfinished; waited != Waited::finished; waited = pool.wait(jobs[k], 5))
                    if (waited == Waited::no_canvas) ring.add(memory(3 * 8 * 32 * 3));
                kept.push_back(std::make_unique<Seen>(lease ? std::move(lease) : pool.show(jobs[k])));
            }
            pool.cancel(*jobs[k]);
            if (kept.size() > 3) kept.erase(kept.begin() + random() % kept.size());
        }
        for (int lacking = ring.lacking(); lacking > 0; --lacking) ring.add(memory(3 * 8 * 32 * 3));
        ring.discarded();
    }
}

}  // namespace

int main() {
    for (int threads : {3, 0}) {
        static const uint8_t nothing[1] = {};
        Pool pool({{nothing, 1, 0}}, nullptr, threads, Check::never, std::chrono::microseconds(30));
        const auto shared = std::make_shared<Lane>(4);
        std::vector<std::thread> users;
        for (unsigned seed = 0; seed < 6; ++seed)
            users.emplace_back([&, seed] { use(pool, seed < 3 ? shared : std::make_shared<Lane>(int(seed) - 2), seed); });
        for (std::thread& user : users) user.join();
    }
    if (memories) fail("memory was lost");
    std::puts("done");
}

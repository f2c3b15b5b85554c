#include "engine.h"

#include <cmath>

#include "mask_plan.h"
#include "plan_view.h"
#include "tensor.h"

namespace fastload {
namespace {

constexpr float crop_limit = 1e6f;
constexpr float hue_limit = 1024, color_limit = 8, offset_limit = 2048;  // beyond these the kernels' fixed point would saturate

// Checks row i of a plan as fastload/engines/validate.py does.
void check(const PlanView& plan, py::ssize_t i, const Canvas& canvas, size_t records) {
    const int64_t index = plan.index.data()[i];
    require(index == fill_row || index == adjust_row || (index >= 0 && size_t(index) < records),
            "a row's index is not that of a record");
    const int32_t* clip = plan.clip.data() + 4 * i;
    require(clip[0] >= 0 && clip[1] >= 0 && clip[2] >= 1 && clip[3] >= 1 && clip[2] <= canvas.width - clip[0] &&
                clip[3] <= canvas.height - clip[1],
            "a row's clip is empty or reaches beyond its canvas");
    const float* crop = plan.crop.data() + 4 * i;
    require(std::isfinite(crop[0]) && std::isfinite(crop[1]) && crop[2] > 0 && crop[3] > 0 && crop[2] <= crop_limit &&
                crop[3] <= crop_limit,
            "a row's crop is empty, not finite or too large");
    const auto& m = plan.row(i).map.m;
    require(std::all_of(m[0], m[0] + 6, [](float value) { return std::isfinite(value); }) &&
                double(m[0][0]) * m[1][1] - double(m[0][1]) * m[1][0] != 0,
            "a row's matrix is not finite or has no inverse");
    require(!plan.alpha || (plan.alpha->data()[i] >= 0 && plan.alpha->data()[i] <= 1), "a row's alpha is not from 0 to 1");
    const float* color = plan.color.data() + 12 * i;
    for (int k = 0; k < 12; ++k)
        require(std::abs(color[k]) <= (k % 4 == 3 ? offset_limit : color_limit),
                "a row's color matrix exceeds +-8, or its offset +-2048");
    require(!plan.filter || plan.filter->data()[i] < filter_kinds, "a row's filter is not a position in FILTERS");
    if (plan.hsv) {
        const float* const hsv = plan.hsv->data() + 5 * i;
        require(std::abs(hsv[0]) <= hue_limit && hsv[1] >= 0 && hsv[1] <= HsvChange::largest_gain &&
                    std::abs(hsv[2]) <= HsvChange::largest_shift && hsv[3] >= 0 && hsv[3] <= HsvChange::largest_gain &&
                    std::abs(hsv[4]) <= HsvChange::largest_value_shift,
                "a row's hsv is out of range");
    }
    if (plan.table)
        require(plan.table->data()[i] >= PlanView::equalize && plan.table->data()[i] < plan.table_count(),
                "a row's table is not in the plan's tables");
    if (!plan.layer) return;
    const int32_t* const layer = plan.layer->data() + i;
    require(*layer >= 0, "a row's layer is negative");
    const bool begins = i == 0 || plan.slot.data()[i - 1] != plan.slot.data()[i] || layer[-1] != *layer;
    require(*layer == 0 || !begins || index == fill_row, "a layer's first row is not a FILL row");
}

// The batch of a plan's slots from `begin` to `end`. `row` is the first row of the batch on entry and the one after its
// last on return.
std::shared_ptr<Job> job_of(const PlanView& plan, py::ssize_t begin, py::ssize_t end, py::ssize_t& row, size_t records,
                            const std::shared_ptr<const PixelFormat>& format) {
    auto job = std::make_shared<Job>();
    const int32_t* const size = plan.canvases.data() + 2 * begin;
    require(size[0] >= 1 && size[1] >= 1 && size[0] <= 65535 && size[1] <= 65535, "the sides of a canvas must be 1 to 65535 pixels");
    for (py::ssize_t s = begin; s < end; ++s)
        require(std::equal(size, size + 2, plan.canvases.data() + 2 * s), "all canvases of a batch must have the same size");
    const uint8_t* const fill = plan.fill.data();
    job->canvas = {size[1], size[0], {fill[0], fill[1], fill[2]}, format};
    job->first_row.assign(size_t(end - begin) + 1, 0);
    const int32_t* const slot = plan.slot.data();
    for (; row < plan.rows && slot[row] < end; ++row) {
        check(plan, row, job->canvas, records);
        job->index.push_back(plan.index.data()[row]);
        job->placements.push_back(plan.placement(row));
        ++job->first_row[slot[row] - begin + 1];
    }
    for (size_t s = 1; s < job->first_row.size(); ++s) job->first_row[s] += job->first_row[s - 1];
    return job;
}

ElementType element_type_of(Sample sample) {
    switch (sample) {
        case Sample::f32:
            return {dl_float, 32};
        case Sample::bf16:
            return {dl_bfloat, 16};
        case Sample::f16:
            return {dl_float, 16};
        default:
            return element_type<uint8_t>;
    }
}

}  // namespace

Engine::Engine(const Array<uint64_t>& addresses, const Array<uint64_t>& lengths, const Array<uint64_t>& checksums,
               int threads, int check, py::object owner, int in_flight, py::object allocate,
               std::shared_ptr<const PixelFormat> format, int emulated_microseconds, bool scaled_decoding)
    : Engine(nullptr, std::make_shared<CanvasReserve>(in_flight + 1), in_flight, std::move(allocate),
             std::move(format)) {
    require(addresses.ndim() == 1 && lengths.size() == addresses.size() && checksums.size() == addresses.size(),
            "addresses, lengths and checksums must have the same length");
    require(check >= 0 && check <= int(Check::always), "unknown value of check");
    require(threads >= 0, "the number of threads must not be negative");
    std::vector<Record> records(addresses.size());
    for (py::ssize_t i = 0; i < addresses.size(); ++i)
        records[i] = {reinterpret_cast<const uint8_t*>(addresses.data()[i]), lengths.data()[i], checksums.data()[i]};
    pool_ = std::make_shared<Pool>(std::move(records), owned(std::move(owner)), threads, static_cast<Check>(check),
                                   std::chrono::microseconds(emulated_microseconds), scaled_decoding);
}

Engine::Engine(std::shared_ptr<Pool> pool, std::shared_ptr<CanvasReserve> reserve, int in_flight, py::object allocate,
               std::shared_ptr<const PixelFormat> format)
    : process_(this_process()), in_flight_(in_flight), allocate_(std::move(allocate)), format_(std::move(format)),
      reserve_(std::move(reserve)), lane_(std::make_shared<Lane>(in_flight, reserve_)), pool_(std::move(pool)) {
    require(in_flight >= 1, "in_flight must be at least 1");
    require(format_ != nullptr, "images must have a format");
}

std::shared_ptr<Engine> Engine::share() const {
    return std::shared_ptr<Engine>(new Engine(open_pool(), reserve_, in_flight_, allocate_, format_));
}

void Engine::close() {
    if (process_ != this_process()) {
        new std::shared_ptr<Pool>(std::move(pool_));  // threads do not survive a fork: nothing to join, so leave it
        return;
    }
    std::shared_ptr<Pool> pool = std::move(pool_);
    lane_->ring->retire();
    WithoutGil without_gil;
    pool.reset();
}

std::unique_ptr<Ticket> Engine::submit(py::handle batch_plan, const std::vector<py::ssize_t>& ends,
                                       py::handle masks) {
    const std::shared_ptr<Pool> pool = open_pool();
    const PlanView plan(batch_plan);
    std::optional<MaskPlan> mask_plan;
    if (!masks.is_none()) mask_plan.emplace(masks);
    std::vector<std::shared_ptr<Job>> jobs;
    {
        WithoutGil without_gil;
        plan.check_slots();
        py::ssize_t begin = 0, row = 0;
        for (py::ssize_t end : ends) {
            require(begin < end && end <= plan.slots, "batches must be in order, not empty and within the plan");
            jobs.push_back(job_of(plan, begin, end, row, pool->records().size(), format_));
            begin = end;
        }
        require(row == plan.rows, "a row's slot is beyond the batches");
        if (mask_plan) {
            size_t next = 0;
            py::ssize_t first = 0;
            for (const auto& job : jobs) {
                job->masks = mask_plan->batch(plan, first, job->first_row, job->canvas.width,
                                               job->canvas.height, next);
                first += job->first_row.back();
            }
        }
    }
    for (const auto& job : jobs) largest_ = std::max(largest_, job->bytes());
    for (int lacking = lane_->ring->lacking(); lacking > 0; --lacking) add_canvas();
    {
        WithoutGil without_gil;  // waking threads takes time
        pool->submit(lane_, jobs);
    }
    return std::make_unique<Ticket>(pool, std::move(jobs), process_);
}

std::vector<Failure> Engine::wait(const std::shared_ptr<Job>& job) {
    const std::shared_ptr<Pool> pool = open_pool();
    std::vector<Failure> failures;
    for (auto waited = Waited::unfinished; waited != Waited::finished;) {
        int lacking;
        {
            WithoutGil without_gil;
            lane_->ring->discarded();
            lacking = lane_->ring->lacking();
            if (lacking <= 0) waited = pool->wait(job, 100);
            if (waited == Waited::finished) failures = pool->failures(*job);
            if (waited == Waited::no_canvas) lacking = 1;
        }
        for (; lacking > 0; --lacking) add_canvas();
        if (waited != Waited::finished && PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C
    }
    return failures;
}

py::object Engine::images(const std::shared_ptr<Job>& job) {
    std::shared_ptr<CanvasRing::Lease> memory = open_pool()->show(job);
    if (!memory) return py::none();
    const int64_t height = job->canvas.height, width = job->canvas.width;
    using Strides = std::array<int64_t, 4>;
    const Strides strides = format_->planar ? Strides{3 * height * width, height * width, width, 1}
                                            : Strides{3 * height * width, 1, 3 * width, 3};
    uint8_t* const data = memory->data();
    return to_capsule<4>(data, element_type_of(format_->sample), {job->slots(), 3, height, width}, strides,
                         std::move(memory));
}

py::object Engine::masks(const std::shared_ptr<Job>& job) {
    if (!job->masks) return py::none();
    const std::shared_ptr<CanvasRing::Lease> memory = open_pool()->memory(*job);
    return mask_tensors(*job->masks, memory->data() + job->masks_at(), memory);
}

py::tuple Engine::times() {
    const std::shared_ptr<Pool> pool = open_pool();
    Times times;
    {
        WithoutGil without_gil;
        times = pool->times();
    }
    return py::make_tuple(times.waiting, times.working, times.disk, times.starved);
}

std::shared_ptr<Job> Engine::job(const Ticket& ticket, size_t number) const {
    require(open_pool() == ticket.pool, "the batch belongs to another engine");
    require(number < ticket.jobs.size(), "the ticket has no batch of that number");
    return ticket.jobs[number];
}

std::shared_ptr<Pool> Engine::open_pool() const {
    require(pool_ != nullptr && process_ == this_process(), "the engine is closed or belongs to another process");
    return pool_;
}

// Gives the ring memory for one more batch.
void Engine::add_canvas() {
    if (std::optional<CanvasMemory> memory = reserve_->take(largest_)) return lane_->ring->add(std::move(*memory));
    const py::array_t<uint8_t> memory = allocate_(largest_);
    require(memory.writeable() && size_t(memory.nbytes()) >= largest_, "canvases need writeable memory");
    auto* const data = const_cast<uint8_t*>(memory.data());
    lane_->ring->add({data, size_t(memory.nbytes()), owned(memory)});
}

}  // namespace fastload

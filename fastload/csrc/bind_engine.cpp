// The native engine for Python: checks a plan's arrays, then hands them to the pool.
#include <unistd.h>

#include <cmath>

#include "bindings.h"
#include "pool.h"

#include <pybind11/stl.h>

namespace fastload {
namespace {

constexpr float color_limit = 8, offset_limit = 2048;  // beyond these the kernels' fixed point would saturate

void check(const Placement& row, const Canvas& canvas) {
    const int32_t* rect = row.rect;
    require(rect[0] >= 0 && rect[1] >= 0 && rect[2] >= 1 && rect[3] >= 1 && rect[2] <= canvas.width - rect[0] &&
                rect[3] <= canvas.height - rect[1],
            "a row's rect is empty or reaches beyond its canvas");
    bool sound = std::isfinite(row.crop[0]) && std::isfinite(row.crop[1]) && row.crop[2] > 0 && row.crop[3] > 0 &&
                 row.crop[2] <= 1e6f && row.crop[3] <= 1e6f;
    require(sound, "a row's crop is empty, not finite or absurdly large");
    for (const auto& channel : row.color) {
        for (int p = 0; p < 3; ++p) sound = sound && std::abs(channel[p]) <= color_limit;
        sound = sound && std::abs(channel[3]) <= offset_limit;
    }
    require(sound, "a row's colour matrix exceeds +-8, or its offset +-2048");
}

// A batch under way, which keeps its canvas alive and is never abandoned while threads write to it.
struct Ticket {
    std::shared_ptr<Pool> pool;
    std::shared_ptr<Job> job;
    py::object canvas;
    pid_t process;

    ~Ticket() {
        if (process != getpid()) return;  // after a fork the threads are the parent's
        py::gil_scoped_release release;
        pool->cancel(*job);
    }
};

class Engine {
public:
    Engine(const Array<uint64_t>& addresses, const Array<uint64_t>& lengths, const Array<uint64_t>& checksums,
           int threads, int check, py::object owner, int emulated_microseconds)
        : process_(getpid()), owner_(std::move(owner)) {
        require(addresses.ndim() == 1 && lengths.size() == addresses.size() && checksums.size() == addresses.size(),
                "addresses, lengths and checksums must be of one length");
        require(check >= 0 && check <= int(Check::always), "no such way of checking");
        require(threads >= 0, "the number of threads must not be negative");
        std::vector<Record> records(addresses.size());
        for (py::ssize_t i = 0; i < addresses.size(); ++i)
            records[i] = {reinterpret_cast<const uint8_t*>(addresses.data()[i]), lengths.data()[i], checksums.data()[i]};
        pool_ = std::make_shared<Pool>(std::move(records), threads, static_cast<Check>(check),
                                       std::chrono::microseconds(emulated_microseconds));
    }
    ~Engine() { close(); }

    void close() {
        if (process_ != getpid()) {
            new std::shared_ptr<Pool>(std::move(pool_));  // threads do not survive a fork: nothing to join, so leave it
            return;
        }
        py::gil_scoped_release release;
        pool_.reset();
    }

    std::unique_ptr<Ticket> submit(const Array<int64_t>& index, const Array<int32_t>& slot, const Array<float>& crop,
                                   const Array<int32_t>& rect, const Array<bool>& flip, const Array<float>& color,
                                   const Array<uint8_t>& fill, const Array<uint8_t>& out) {
        require(pool_ != nullptr && process_ == getpid(), "the engine is closed or belongs to another process");
        const py::ssize_t n = index.size();
        require(index.ndim() == 1 && slot.size() == n && flip.size() == n && crop.size() == 4 * n &&
                    rect.size() == 4 * n && color.size() == 12 * n && fill.size() == 3,
                "the plan's arrays disagree in length");
        require(out.ndim() == 4 && out.shape(3) == 3 && out.writeable(), "out must be a writeable (B, H, W, 3) array");
        auto job = std::make_shared<Job>();
        job->canvas = {int(out.shape(1)), int(out.shape(2)), {fill.data()[0], fill.data()[1], fill.data()[2]}};
        job->out = const_cast<uint8_t*>(out.data());
        job->index.assign(index.data(), index.data() + n);
        job->placements.resize(n);
        job->first_row.assign(out.shape(0) + 1, 0);
        for (py::ssize_t i = 0; i < n; ++i) {
            require(index.data()[i] >= 0 && size_t(index.data()[i]) < pool_->records().size(), "no record of that index");
            require(slot.data()[i] >= (i ? slot.data()[i - 1] : 0) && slot.data()[i] < out.shape(0),
                    "rows must be sorted by slot, and slots be those of out");
            Placement& row = job->placements[i];
            std::copy_n(crop.data() + 4 * i, 4, row.crop);
            std::copy_n(rect.data() + 4 * i, 4, row.rect);
            std::copy_n(color.data() + 12 * i, 12, row.color[0]);
            row.flip = flip.data()[i];
            check(row, job->canvas);
            ++job->first_row[slot.data()[i] + 1];
        }
        for (size_t s = 1; s < job->first_row.size(); ++s) job->first_row[s] += job->first_row[s - 1];
        {
            py::gil_scoped_release release;
            pool_->submit(job);
        }
        return std::unique_ptr<Ticket>(new Ticket{pool_, job, out, process_});
    }

    py::dict wait(Ticket& ticket) {
        require(ticket.process == getpid(), "the batch belongs to another process");
        bool finished = false;
        while (!finished) {
            {
                py::gil_scoped_release release;
                finished = ticket.pool->wait(*ticket.job, 100);
            }
            if (PyErr_CheckSignals() != 0) throw py::error_already_set();  // Ctrl-C
        }
        py::dict failures;
        for (const Failure& failure : ticket.pool->failures(*ticket.job)) failures[py::int_(failure.row)] = failure.reason;
        return failures;
    }

    py::tuple times() {
        require(pool_ != nullptr && process_ == getpid(), "the engine is closed or belongs to another process");
        Times times;
        {
            py::gil_scoped_release release;
            times = pool_->times();
        }
        return py::make_tuple(times.waiting, times.working, times.disk, times.starved);
    }

    bool done(Ticket& ticket) {
        require(ticket.process == getpid(), "the batch belongs to another process");
        return ticket.pool->done(*ticket.job);
    }

private:
    pid_t process_;
    py::object owner_;
    std::shared_ptr<Pool> pool_;
};

// One record outside any batch: for Cache, verify and the reference engine.
py::tuple decode_record_planes(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    thread_local RecordDecoder decoder;
    Buffer memory;
    Planes planes;
    {
        py::gil_scoped_release release;
        decoder.planes(bytes.data(), bytes.size(), true, memory, planes);
    }
    return py::make_tuple(to_arrays(planes), int(planes.subsampling), planes.rgb);
}

py::bytes payload_of(const py::buffer& jpeg, int encoding) {
    const Bytes bytes(jpeg);
    std::vector<uint8_t> payload;
    {
        py::gil_scoped_release release;
        payload = encode_payload(bytes.data(), bytes.size(), static_cast<Encoding>(encoding));
    }
    return py::bytes(reinterpret_cast<const char*>(payload.data()), payload.size());
}

uint64_t checksum_of_record(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    const RecordHeader header = read_header(bytes.data(), bytes.size());
    py::gil_scoped_release release;
    return record_checksum(header, bytes.data() + sizeof header);
}

}  // namespace

void bind_engine(py::module_& m) {
    py::register_exception<RecordError>(m, "RecordError", PyExc_ValueError);
    py::class_<Ticket>(m, "Ticket");
    py::class_<Engine>(m, "Engine")
        .def(py::init<const Array<uint64_t>&, const Array<uint64_t>&, const Array<uint64_t>&, int, int, py::object, int>(),
             py::arg("addresses"), py::arg("lengths"), py::arg("checksums"), py::arg("threads"), py::arg("check"),
             py::arg("owner"), py::arg("emulated_microseconds") = 0)
        .def("submit", &Engine::submit, py::arg("index").noconvert(), py::arg("slot").noconvert(),
             py::arg("crop").noconvert(), py::arg("rect").noconvert(), py::arg("flip").noconvert(),
             py::arg("color").noconvert(), py::arg("fill").noconvert(), py::arg("out").noconvert())
        .def("wait", &Engine::wait)
        .def("times", &Engine::times)
        .def("done", &Engine::done)
        .def("close", &Engine::close);
    m.def("decode_record", &decode_record_planes, py::arg("record"),
          "Check and decode a whole record (header and payload) to (planes, subsampling, rgb); ValueError on failure.");
    m.def("encode_payload", &payload_of, py::arg("jpeg"), py::arg("encoding"),
          "A JPEG's payload in an encoding of layout.Encoding; JpegError when it does not decode cleanly or fit it.");
    m.def("record_checksum", &checksum_of_record, py::arg("record"), "The checksum a record should carry.");
}

}  // namespace fastload

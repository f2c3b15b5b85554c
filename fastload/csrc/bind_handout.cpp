// Hands out batches to a for loop. Python is slow just after it was woken up, as all that it needs has left the caches.
// So what has to be done for each batch is done here, and in Python what can be done for several at a time.
#include <chrono>
#include <deque>
#include <utility>

#include "bindings.h"
#include "engine.h"

namespace fastload {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// What an iteration has handed out. Seconds are those of Python's time.perf_counter.
struct Tally {
    int64_t steps = 0;  // batches whose turn has come
    int64_t batches = 0, images = 0;
    double waiting = 0;  // for pixels
    double last = 0;     // when it was added to

    void waited(double since) {
        last = now();
        waiting += last - since;
    }
    void handed_out(int64_t count) {
        ++batches;
        images += count;
    }
};

// An iterator over batches that are ready but for their pixels. When there are none, `_next()` is to prepare some or
// give one, and when one has failures, `_failed(job, batch, failures)` is to give what comes instead: both are Python's.
class Handout {
public:
    Handout(std::shared_ptr<Tally> tally, std::shared_ptr<Engine> engine)
        : tally_(std::move(tally)), engine_(std::move(engine)) {}

    // The first of `flight`, a Python job, is moved to those that are ready: Ctrl-C comes before or after.
    void prepare(const Ticket& ticket, size_t number, py::object batch, const py::object& flight) {
        require(engine_ != nullptr, "only batches of the native engine can be prepared");
        ready_.push_back({engine_->job(ticket, number), std::move(batch), flight.attr("popleft")()});
    }
    size_t prepared() const { return ready_.size(); }

    py::object next(const py::handle& self) {
        if (ready_.empty()) {
            std::exchange(handed_out_, {});  // which may let others run
            if (engine_) engine_->wake();
            py::object batch = self.attr("_next")();
            if (ready_.empty()) return batch;
        }
        require(!waiting_, "another thread is waiting for the next batch");
        const std::vector<Failure> failures = wait(ready_.front().job);
        Ready ready = std::move(ready_.front());
        ready_.pop_front();
        ++tally_->steps;
        if (!failures.empty()) return self.attr("_failed")(ready.python_job, ready.batch, to_dict(failures));
        tally_->handed_out(ready.job->slots());
        handed_out_.push_back(std::move(ready.python_job));
        return std::move(ready.batch);
    }

private:
    struct Ready {
        std::shared_ptr<Job> job;
        py::object batch, python_job;
    };

    // Ctrl-C leaves all as it was.
    std::vector<Failure> wait(const std::shared_ptr<Job> job) {  // a copy, since others run meanwhile
        struct Waiting {
            explicit Waiting(Handout& handout) : handout(handout), since(now()) { handout.waiting_ = true; }
            ~Waiting() {
                handout.waiting_ = false;
                handout.tally_->waited(since);
            }
            Handout& handout;
            const double since;
        } const waiting(*this);
        return engine_->wait(job);
    }

    const std::shared_ptr<Tally> tally_;
    const std::shared_ptr<Engine> engine_;
    std::deque<Ready> ready_;
    std::vector<py::object> handed_out_;  // jobs, to be freed together
    bool waiting_ = false;
};

PyObject* next(PyObject* self) {
    try {
        return py::handle(self).cast<Handout&>().next(self).release().ptr();
    } catch (py::error_already_set& error) {
        error.restore();
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
    }
    return nullptr;
}

}  // namespace

void bind_handout(py::module_& m) {
    py::class_<Tally, std::shared_ptr<Tally>>(m, "Tally", "What an iteration has handed out, and its time.")
        .def(py::init<>())
        .def_readwrite("steps", &Tally::steps)
        .def_readonly("batches", &Tally::batches)
        .def_readonly("images", &Tally::images)
        .def_readonly("waiting", &Tally::waiting)
        .def_readonly("last", &Tally::last)
        .def(py::pickle(
            [](const Tally& t) { return py::make_tuple(t.steps, t.batches, t.images, t.waiting, t.last); },
            [](const py::tuple& t) {
                return Tally{t[0].cast<int64_t>(), t[1].cast<int64_t>(), t[2].cast<int64_t>(), t[3].cast<double>(),
                             t[4].cast<double>()};
            }))
        .def("waited", &Tally::waited)
        .def("handed_out", &Tally::handed_out);
    const auto as_iterator = [](PyHeapTypeObject* type) {
        type->ht_type.tp_iter = PyObject_SelfIter;
        type->ht_type.tp_iternext = next;  // a method would take as long as all the rest
    };
    py::class_<Handout>(m, "Handout", py::custom_type_setup(as_iterator))
        .def(py::init<std::shared_ptr<Tally>, std::shared_ptr<Engine>>(), py::arg("tally"), py::arg("engine"))
        .def("prepare", &Handout::prepare)
        .def_property_readonly("prepared", &Handout::prepared);
}

}  // namespace fastload

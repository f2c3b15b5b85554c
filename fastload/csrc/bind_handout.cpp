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

// An iterator over batches. Those that need nothing but their pixels are kept here, run by run; `_plan()` is asked for
// more of them. When it gives none, the next batch, or the end, is what `_next()` says; and when one has failures,
// `_failed(run, number, batch, failures)` gives what comes instead. All three are Python's.
class Handout {
public:
    // `depth` batches are under way at a time. `to_tensor` makes one of a DLPack capsule, and `batch`, a NamedTuple, holds
    // it and the targets.
    Handout(std::shared_ptr<Tally> tally, std::shared_ptr<Engine> engine, size_t depth, py::function to_tensor,
            py::type batch)
        : tally_(std::move(tally)), engine_(std::move(engine)), depth_(depth), to_tensor_(std::move(to_tensor)),
          batch_(std::move(batch)) {
        require(PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(batch_.ptr()), &PyTuple_Type), "a batch is a tuple");
    }

    // Hand out the batches of a submitted run in their turn, each with its `targets`.
    void keep(const py::object& ticket, py::object run, py::list targets) {
        require(engine_ != nullptr, "only batches of the native engine can be kept");
        const auto& jobs = ticket.cast<const Ticket&>();
        require(jobs.jobs.size() == targets.size(), "each batch needs targets");
        const auto shared = std::make_shared<const Run>(Run{ticket, std::move(run), std::move(targets)});
        for (size_t k = 0; k < jobs.jobs.size(); ++k) queue_.push_back({engine_->job(jobs, k), shared, k, {}});
    }
    size_t kept() const { return queue_.size(); }

    py::object next(const py::handle& self) {
        require(!busy_, "another thread is waiting for the next batch");
        const Busy busy(busy_);
        if (!ready_) {
            std::exchange(handed_out_, {});  // which may let others run
            if (engine_) engine_->wake();
            if (queue_.size() < depth_) self.attr("_plan")();
            if (queue_.empty()) return self.attr("_next")();
            prepare();
        }
        const std::vector<Failure> failures = wait(*queue_.front().job);
        if (!ready_) prepare();  // there was no canvas before
        Kept first = std::move(queue_.front());
        queue_.pop_front();
        --ready_;
        ++tally_->steps;
        if (!failures.empty())
            return self.attr("_failed")(first.run->run, first.number, first.batch, to_dict(failures));
        tally_->handed_out(first.job->slots());
        py::object batch = std::move(first.batch);
        handed_out_.push_back(std::move(first));
        return batch;
    }

private:
    struct Run {
        py::object ticket, run;
        py::list targets;
    };
    struct Kept {
        std::shared_ptr<Job> job;
        std::shared_ptr<const Run> run;
        size_t number;
        py::object batch;  // once there is a canvas
    };
    struct Busy {
        explicit Busy(bool& flag) : flag(flag) { flag = true; }
        ~Busy() { flag = false; }
        bool& flag;
    };

    // Makes the batches of all that have a canvas: the first of several costs most.
    void prepare() {
        for (; ready_ < std::min(depth_, queue_.size()); ++ready_) {
            Kept& next = queue_[ready_];
            const py::object images = engine_->images(*next.job);
            if (images.is_none()) return;
            const py::tuple values = py::make_tuple(py::make_tuple(to_tensor_(images), next.run->targets[next.number]));
            PyObject* const batch =
                PyTuple_Type.tp_new(reinterpret_cast<PyTypeObject*>(batch_.ptr()), values.ptr(), nullptr);
            if (batch == nullptr) throw py::error_already_set();
            next.batch = py::reinterpret_steal<py::object>(batch);
        }
    }

    // Ctrl-C leaves all as it was.
    std::vector<Failure> wait(Job& job) {
        struct Waiting {
            explicit Waiting(Tally& tally) : tally(tally), since(now()) {}
            ~Waiting() { tally.waited(since); }
            Tally& tally;
            const double since;
        } const waiting(*tally_);
        return engine_->wait(job);
    }

    const std::shared_ptr<Tally> tally_;
    const std::shared_ptr<Engine> engine_;
    const size_t depth_;
    const py::function to_tensor_;
    const py::type batch_;
    std::deque<Kept> queue_;
    size_t ready_ = 0;              // batches at the front of the queue that are made
    std::vector<Kept> handed_out_;  // to be freed together
    bool busy_ = false;
};

PyObject* next(PyObject* self) {
    try {
        // It is one, or `next` would not have been called: a cast would look for that in pybind11's tables.
        auto* const handout =
            reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().value_ptr<Handout>();
        require(handout != nullptr, "__init__ was not called");
        return handout->next(self).release().ptr();
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
        .def(py::init<std::shared_ptr<Tally>, std::shared_ptr<Engine>, size_t, py::function, py::type>(),
             py::arg("tally"), py::arg("engine"), py::arg("depth"), py::arg("to_tensor"), py::arg("batch"))
        .def("keep", &Handout::keep, py::arg("ticket"), py::arg("run"), py::arg("targets"))
        .def_property_readonly("kept", &Handout::kept);
}

}  // namespace fastload

// What only tests and benchmarks call: `fastload._core.testing`. A submodule, not a library of its own, so that they
// meet the very code that users run, with its statics: the libturbojpeg found, the level in use, the seconds counted.
#pragma once

#include "bindings.h"

namespace fastload {

void bind_encodings(py::module_& m);
void bind_geometry(py::module_& m);
void bind_kernels(py::module_& m);
void bind_stages(py::module_& m);

}  // namespace fastload

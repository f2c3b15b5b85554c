// Functions for tests and benchmarks only: `fastload._core.testing`. A submodule rather than a separate library, so
// that they run the same code as users do, with its static state: the libturbojpeg found, the level in use, the seconds
// counted.
#pragma once

#include "bindings.h"

namespace fastload {

void bind_encodings(py::module_& m);
void bind_geometry(py::module_& m);
void bind_kernels(py::module_& m);
void bind_rows(py::module_& m);
void bind_stages(py::module_& m);

}  // namespace fastload

#include "bindings.h"

#include "simd.h"
#include "testing.h"
#include "xxh64.h"

PYBIND11_MODULE(_core, m) {
    using namespace fastload;
    m.doc() = "The native core: whatever touches pixels or untrusted bytes.";
    m.def("simd_level", [] { return simd_name(simd_level()); }, "Vector instructions in use: scalar, neon, avx2, avx512.");
    m.def(
        "xxh64",
        [](const py::buffer& buffer, uint64_t seed) {
            const Bytes bytes(buffer);
            WithoutGil without_gil;
            return xxh64(bytes.data(), bytes.size(), seed);
        },
        py::arg("data"), py::arg("seed") = 0, "XXH64 of a buffer's bytes.");
    bind_engine(m);
    bind_jpeg(m);
    bind_jpeg_write(m);
    bind_masks(m);
    bind_lmdb_tree(m);
    bind_mapped_file(m);
    bind_ops(m);
    bind_record(m);
    bind_pixels(m);
    bind_targets(m);

    py::module_ testing = m.def_submodule("testing", "What only tests and benchmarks call.");
    bind_encodings(testing);
    bind_geometry(testing);
    bind_kernels(testing);
    bind_rows(testing);
    bind_stages(testing);
}

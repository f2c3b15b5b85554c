// The walker of LMDB files: records as arrays, other entries by key.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "lmdb_tree.h"
#include "mapped_file.h"
#include "xxh64.h"

namespace fastload {
namespace {

constexpr std::string_view kRecordPrefix = "record/";  // see fastload/cache/format/layout.py

// `record/` + position, 8 bytes big-endian.
uint64_t record_position(std::string_view key) {
    require(key.size() == kRecordPrefix.size() + 8, "a record's key is damaged");
    uint64_t position = 0;
    for (char c : key.substr(kRecordPrefix.size())) position = position << 8 | static_cast<uint8_t>(c);
    return position;
}

// An array that takes ownership of the memory.
py::array_t<uint64_t> to_array(std::vector<uint64_t>&& values) {
    auto owned = std::make_unique<std::vector<uint64_t>>(std::move(values));
    const uint64_t* const data = owned->data();
    const auto size = static_cast<py::ssize_t>(owned->size());
    py::capsule owner(owned.get(), [](void* vector) { delete static_cast<std::vector<uint64_t>*>(vector); });
    owned.release();
    return py::array_t<uint64_t>(size, data, owner);
}

// Releases pages of files only: a bytes object would lose its content.
Residency residency_of(const py::buffer& buffer, bool release) {
    if (!release) return Residency::kept;
    require(py::isinstance<MappedFile>(buffer), "only the pages of a MappedFile can be released");
    return Residency::released;
}

py::tuple lmdb_tree(const py::buffer& buffer, bool release) {
    const Bytes bytes(buffer);
    const Residency residency = residency_of(buffer, release);
    std::vector<std::pair<std::string, LmdbValue>> values;
    std::vector<uint64_t> positions, offsets, sizes;
    uint64_t extent = 0;
    {
        WithoutGil without_gil;
        const auto visit = [&](std::string_view key, LmdbValue value) {
            if (key.substr(0, kRecordPrefix.size()) != kRecordPrefix) {
                values.emplace_back(key, value);
                return;
            }
            positions.push_back(record_position(key));
            offsets.push_back(value.offset);
            sizes.push_back(value.size);
        };
        extent = walk_lmdb(bytes.data(), bytes.size(), visit, residency);
    }
    py::dict named;
    for (const auto& [key, value] : values) named[py::bytes(key)] = py::make_tuple(value.offset, value.size);
    return py::make_tuple(named, to_array(std::move(positions)), to_array(std::move(offsets)),
                          to_array(std::move(sizes)), extent);
}

uint64_t mapped_xxh64(const MappedFile& file, size_t offset, size_t size) {
    require(offset <= file.size() && size <= file.size() - offset, "the part lies beyond the file");
    WithoutGil without_gil;
    ResidentPages resident(file.data(), file.size(), Residency::released);
    return xxh64(file.data() + offset, size, 0, [&](const uint8_t* next) { resident.read(next); });
}

}  // namespace

void bind_lmdb_tree(py::module_& m) {
    m.def("lmdb_tree", &lmdb_tree, py::arg("file"), py::arg("release") = false,
          "Everything in the bytes of an LMDB file: ({key: (offset, size)}, positions, offsets, sizes, extent).\n\n"
          "The three uint64 arrays (n) describe the records, in order of position; the dictionary holds every other\n"
          "key; the extent is the end of the last page LMDB has numbered, in bytes. With `release`, pages do not stay\n"
          "resident, and the file must be a MappedFile. ValueError says what is wrong when the file is damaged.");
    m.def("mapped_xxh64", &mapped_xxh64, py::arg("file"), py::arg("offset"), py::arg("size"),
          "XXH64 of a part of a file, whose pages do not stay resident.");
}

}  // namespace fastload

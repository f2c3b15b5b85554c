// The walker of LMDB files for Python: records as arrays, whatever else there is by its key.
#include <string>
#include <utility>
#include <vector>

#include "bindings.h"
#include "lmdb_tree.h"

namespace fastload {
namespace {

constexpr std::string_view kRecordPrefix = "record/";  // see cache/layout.py

// `record/` + position, 8 bytes big-endian.
uint64_t record_position(std::string_view key) {
    require(key.size() == kRecordPrefix.size() + 8, "a record's key is damaged");
    uint64_t position = 0;
    for (char c : key.substr(kRecordPrefix.size())) position = position << 8 | static_cast<uint8_t>(c);
    return position;
}

py::array_t<uint64_t> to_array(const std::vector<uint64_t>& values) {
    return py::array_t<uint64_t>(static_cast<py::ssize_t>(values.size()), values.data());
}

py::tuple lmdb_tree(const py::buffer& buffer) {
    const Bytes bytes(buffer);
    std::vector<std::pair<std::string, LmdbValue>> values;
    std::vector<uint64_t> positions, offsets, sizes;
    uint64_t extent = 0;
    {
        WithoutGil without_gil;
        extent = walk_lmdb(bytes.data(), bytes.size(), [&](std::string_view key, LmdbValue value) {
            if (key.substr(0, kRecordPrefix.size()) != kRecordPrefix) {
                values.emplace_back(key, value);
                return;
            }
            positions.push_back(record_position(key));
            offsets.push_back(value.offset);
            sizes.push_back(value.size);
        });
    }
    py::dict named;
    for (const auto& [key, value] : values) named[py::bytes(key)] = py::make_tuple(value.offset, value.size);
    return py::make_tuple(named, to_array(positions), to_array(offsets), to_array(sizes), extent);
}

}  // namespace

void bind_lmdb_tree(py::module_& m) {
    m.def("lmdb_tree", &lmdb_tree, py::arg("file"),
          "Everything in the bytes of an LMDB file: ({key: (offset, size)}, positions, offsets, sizes, extent).\n\n"
          "The three uint64 arrays (n) describe the records, in order of position; the dictionary holds every other\n"
          "key; the extent is the end of the last page LMDB has numbered, in bytes. ValueError\n"
          "says what is wrong when the file is damaged.");
}

}  // namespace fastload

// Reads the file of an LMDB environment without trusting a byte of it.
//
// LMDB itself follows page numbers and node offsets unchecked, so a flipped bit can crash it. A cache is opened by
// walking its whole tree once, which is the only part of LMDB that reading needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "resident_pages.h"

namespace fastload {

struct LmdbValue {
    uint64_t offset;  // of the value's first byte in the file
    uint64_t size;    // bytes
};

using LmdbVisitor = std::function<void(std::string_view key, LmdbValue value)>;

// Calls `visit` for every entry of the main database, in key order. Returns the bytes up to the end of the last page
// that LMDB has numbered; the file may be shorter if the last pages were never written. Throws std::invalid_argument if
// the file is damaged, truncated, or not an LMDB 0.9 file of a 64-bit little-endian machine. `residency`: whether the
// pages it reads stay resident.
uint64_t walk_lmdb(const uint8_t* file, size_t file_size, const LmdbVisitor& visit,
                   Residency residency = Residency::kept);

}  // namespace fastload

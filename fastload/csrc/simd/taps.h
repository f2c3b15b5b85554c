#pragma once

#include <cstddef>

namespace fastload {

struct Tap {
    ptrdiff_t offset;  // in floats
    float weight;
};

// All pairs of a row and a column: at the sum of their offsets, with the product of their weights.
struct TapGrid {
    const Tap *rows, *rows_end;
    const Tap *columns, *columns_end;
};

}  // namespace fastload

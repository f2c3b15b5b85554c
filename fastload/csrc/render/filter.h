// The filters that resample sources, see resample.h.
#pragma once

#include <cstdint>

namespace fastload {

// In the order of FILTERS in fastload/plan/batch_plan.py.
enum class Filter : uint8_t { bilinear, bilinear_no_antialias, nearest, bicubic };
constexpr int filter_kinds = 4;

}  // namespace fastload

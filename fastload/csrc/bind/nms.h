#pragma once

#include <cstddef>
#include <cstdint>

namespace fastload {

// Exact greedy class-aware non-maximum suppression of one image. Writes into `kept` the indices of at most `limit`
// boxes, best score first and lower index first among equals, and returns how many. A score of -inf or NaN means that
// there is no box. `boxes` is n x 4, xyxy.
std::size_t nms(const float* boxes, const float* scores, const std::int64_t* labels, std::size_t n, double threshold,
                std::size_t limit, std::int64_t* kept);

}  // namespace fastload

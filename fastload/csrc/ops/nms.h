#pragma once

#include <cstddef>
#include <cstdint>

namespace fastload {

// Exact greedy class-aware non-maximum suppression of one image. Writes the indices of at most `limit` boxes into
// `kept`, best score first and lower index first among equal scores, and returns their number. A score of -inf or NaN
// marks an empty place. `boxes` is n x 4, xyxy.
std::size_t nms(const float* boxes, const float* scores, const std::int64_t* labels, std::size_t n, double threshold,
                std::size_t limit, std::int64_t* kept);

}  // namespace fastload

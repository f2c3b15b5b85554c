// The mean and the standard deviation of an image's colors.
#pragma once

#include <array>

#include "planes.h"

namespace fastload {

struct ColorMoments {
    std::array<float, 3> mean, std;  // of R, G and B, in levels of 0 to 255
};

// Computed from sums over the planes: values of single pixels beyond 0 to 255 are not clipped, and chroma is constant
// within a sample. Photographs differ from their drawn pixels by less than a level. The same on all machines.
ColorMoments color_moments(const Planes& planes);

}  // namespace fastload

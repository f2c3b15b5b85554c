// Parts of images, decoded alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "planes.h"
#include "region.h"

namespace fastload {

// Some region near the image's upper left corner, by any number; at its own size, or smaller if that is `scaled`.
inline Region some_region(uint64_t number, bool scaled) {
    Region region;
    for (Region::Axis& axis : region.axis) {
        axis.first = double(number % 90) - 10;
        axis.last = axis.first + double(number / 90 % 70);
        axis.reach = double(number / 6300 % 5);
        axis.shrink = scaled ? double(1 + number / 31500 % 12) : 1;
        number = number >> 21 | number << 43;
    }
    return region;
}

// The samples that the region shows, one after another.
inline std::vector<uint8_t> shown(const Planes& planes, const Region& region) {
    std::vector<uint8_t> samples;
    for (int c = 0; c < planes.count; ++c) {
        const Plane& plane = planes.plane[c];
        const int divisors[2] = {c ? chroma_divisor_x[planes.subsampling] : 1, c ? chroma_divisor_y[planes.subsampling] : 1};
        const int sides[2] = {planes.width, planes.height};
        int begin[2], end[2];
        for (int axis = 0; axis < 2; ++axis) {
            const double divisor = divisors[axis] << plane.halvings, side = std::ceil(sides[axis] / divisor);
            const double reach = region.axis[axis].reach / divisor;
            const double first = std::clamp(region.axis[axis].first / divisor, 0., side) - reach;
            const double last = std::clamp(region.axis[axis].last / divisor, 0., side) + reach;
            begin[axis] = int(std::clamp(std::floor(first) - 2, 0., side - 1));
            end[axis] = int(std::clamp(std::ceil(last) + 2, begin[axis] + 1., side));
        }
        for (int y = begin[1]; y < end[1]; ++y) {
            const uint8_t* const row = plane.data + y * plane.stride;
            samples.insert(samples.end(), row + begin[0], row + end[0]);
        }
    }
    return samples;
}

}  // namespace fastload

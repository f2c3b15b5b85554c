// The vector instructions that kernels may use, detected once at run time.
#pragma once

#include <string>
#include <vector>

namespace fastload {

enum class Simd { scalar, neon, avx2, avx512 };

// The best level of this machine, or the one named by FASTLOAD_SIMD (scalar, neon, avx2, avx512).
// Throws std::runtime_error if the variable names a level that is unknown or not supported by this machine.
Simd simd_level();

// The levels of this machine, best first.
std::vector<Simd> simd_levels();

const char* simd_name(Simd level);

// One of this machine's levels by its name. Throws std::invalid_argument.
Simd simd_level_named(const std::string& name);

}  // namespace fastload

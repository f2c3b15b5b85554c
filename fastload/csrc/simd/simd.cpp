#include "simd.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fastload {
namespace {

#if defined(__x86_64__)
bool bit_instructions() {
    return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

bool half_precision() {  // a name that GCC knows from version 11 on
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

bool available(Simd level) {
    switch (level) {
        case Simd::scalar:
            return true;
        case Simd::neon:
#if defined(__aarch64__)
            return true;
#else
            return false;
#endif
#if defined(__x86_64__)
        case Simd::avx2:
            return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && half_precision() &&
                   bit_instructions();
        case Simd::avx512:  // Ice Lake and later: byte permutes and byte dot products
            return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                   __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                   __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vnni") &&
                   __builtin_cpu_supports("avx512dq") && bit_instructions();
#endif
        default:
            return false;
    }
}

constexpr Simd best_first[] = {Simd::avx512, Simd::avx2, Simd::neon, Simd::scalar};

Simd choose() {
    const char* wanted = std::getenv("FASTLOAD_SIMD");
    for (Simd level : best_first) {
        if (wanted && *wanted && std::strcmp(wanted, simd_name(level)) != 0) continue;
        if (available(level)) return level;
    }
    throw std::runtime_error(std::string("FASTLOAD_SIMD=") + wanted +
                             ": not one of scalar, neon, avx2, avx512, or this machine lacks it");
}

}  // namespace

Simd simd_level() {
    static const Simd level = choose();
    return level;
}

std::vector<Simd> simd_levels() {
    std::vector<Simd> levels;
    for (Simd level : best_first)
        if (available(level)) levels.push_back(level);
    return levels;
}

const char* simd_name(Simd level) {
    switch (level) {
        case Simd::neon:
            return "neon";
        case Simd::avx2:
            return "avx2";
        case Simd::avx512:
            return "avx512";
        default:
            return "scalar";
    }
}

Simd simd_level_named(const std::string& name) {
    for (Simd level : simd_levels())
        if (name == simd_name(level)) return level;
    throw std::invalid_argument("this machine has no vector instructions called " + name);
}

}  // namespace fastload

#include "kernels.h"

namespace fastload {

const Kernels& kernels() { return kernels_of(simd_level()); }

const Kernels& kernels_of(Simd level) {
    switch (level) {
#if defined(__x86_64__)
        case Simd::avx512:
            return avx512_kernels;
        case Simd::avx2:
            return avx2_kernels;
#elif defined(__aarch64__)
        case Simd::neon:
            return neon_kernels;
#endif
        default:
            return scalar_kernels;
    }
}

}  // namespace fastload

// The kernels for machines with AVX2, F16C and FMA. The standard headers come before the target pragma, so that
// what they leave out of line runs on every machine; everything of ours comes after it.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2,f16c,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx,avx2,f16c,fma,bmi,bmi2")
#endif

#include <immintrin.h>

#include "block_loops.h"
#include "column_loops.h"
#include "elementwise_loops.h"
#include "kernels.h"
#include "row_loops.h"
#include "simd_avx2.h"

namespace fused_dropout {

const Kernels kernels_avx2{run_elementwise<Avx2>, block_masks<Avx2>, run_rows<Avx2>, add_rows<Avx2>};

}  // namespace fused_dropout

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__

// The kernels for machines with AVX-512 F, BW, DQ and VL, and what kernels_avx2.cpp asks for. The standard headers come
// before the target pragma, so that what they leave out of line runs on every machine; everything of ours comes after
// it.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx,avx2,f16c,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
// GCC's own intrinsics start from a register that they leave undefined on purpose, and GCC 12 warns of it (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx,avx2,f16c,fma,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl")
#endif

#include <immintrin.h>

#include "block_loops.h"
#include "column_loops.h"
#include "elementwise_loops.h"
#include "kernels.h"
#include "row_loops.h"
#include "simd_avx512.h"

namespace fused_dropout {

const Kernels kernels_avx512{run_elementwise<Avx512>, block_masks<Avx512>, run_rows<Avx512>, add_rows<Avx512>};

}  // namespace fused_dropout

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__

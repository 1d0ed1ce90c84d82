// The CPU's paths that the compiler was told to use. FD_WITHOUT_CUDA, _PORTABLE, _AVX2 and _AVX512 leave paths out, for
// who compiles often.
#pragma once

#include <string>

#include "cpu/simd_portable.h"
#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#include <immintrin.h>

#include "cpu/simd_avx2.h"
#if !defined(FD_WITHOUT_AVX2)
#define FD_AVX2
#endif
#endif
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__) && \
    defined(__BMI2__) && !defined(FD_WITHOUT_AVX512)
#define FD_AVX512
#include "cpu/simd_avx512.h"
#endif

namespace fused_dropout {

// Calls visit(Isa{}) for the path of that name; whether there is one.
template <class Visitor>
bool visit_cpu_path(const std::string& path, const Visitor& visit) {
#if !defined(FD_WITHOUT_PORTABLE)
  if (path == "portable") return visit(Portable{}), true;
#endif
#if defined(FD_AVX2)
  if (path == "avx2") return visit(Avx2{}), true;
#endif
#if defined(FD_AVX512)
  if (path == "avx512") return visit(Avx512{}), true;
#endif
  return false;
}

}  // namespace fused_dropout

// The kernels of bfloat16 for machines with AVX-512 F, BW, DQ, VL and BF16; the other types are those of
// kernels_avx512.cpp, which also says why the headers come in this order.
#if defined(__x86_64__)
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__clang__)
#pragma clang attribute push(                                                                        \
    __attribute__((target("avx,avx2,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
    apply_to = function)
#else
// GCC's own intrinsics start from a register that they leave undefined on purpose, and GCC 12 warns of it (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx,avx2,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#include <immintrin.h>

#include "block_loops.h"
#include "column_loops.h"
#include "elementwise_loops.h"
#include "kernels.h"
#include "row_loops.h"
#include "simd_avx512_bf16.h"

namespace fused_dropout {

namespace {

struct Run {
  PipelineId pipeline;
  DType dtype;
  const ElementwiseArgs& args;
  int64_t begin, end;

  template <class Pipeline, class T>
  void operator()() const {
    if constexpr (std::is_same_v<T, BFloat16>) {
      ElementwiseLoops<Avx512Bf16, Pipeline, T>(args).run(begin, end);
    } else {
      kernels_avx512.elementwise(pipeline, dtype, args, begin, end);
    }
  }
};

void elementwise(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t begin, int64_t end) {
  visit_elementwise(pipeline, dtype, Run{pipeline, dtype, args, begin, end});
}

struct RunBFloat16Rows {
  RowOperation operation;
  DType dtype;
  const RowArgs& args;
  int64_t begin, end;

  template <class Op, class T>
  void operator()() const {
    if constexpr (std::is_same_v<T, BFloat16>) {
      RowLoops<Avx512Bf16, Op, T>(args).run(begin, end);
    } else {
      kernels_avx512.rows(operation, dtype, args, begin, end);
    }
  }
};

void rows(RowOperation operation, DType dtype, const RowArgs& args, int64_t begin, int64_t end) {
  visit_row_operation(operation, dtype, RunBFloat16Rows{operation, dtype, args, begin, end});
}

}  // namespace

const Kernels kernels_avx512_bf16{elementwise, block_masks<Avx512Bf16>, rows, add_rows<Avx512Bf16>};

}  // namespace fused_dropout

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif  // __x86_64__

// The tensors of an elementwise pipeline: its outputs and inputs, read and written at one place.
#pragma once

#include "vector.cuh"

namespace fused_dropout {

template <class Pipeline, class T>
struct Operands {
  T* y[Pipeline::kOutputs];
  const T* x[Pipeline::kInputs + 1];
};

template <int N, class Pipeline, class T>
__device__ __forceinline__ void load_inputs(const Operands<Pipeline, T>& operands, int64_t at,
                                            Packed<T, N> (&x)[Pipeline::kInputs + 1]) {
#pragma unroll
  for (int k = 0; k < Pipeline::kInputs; ++k) x[k] = load<N>(operands.x[k] + at);
}

template <int N, class Pipeline, class T>
__device__ __forceinline__ void store_outputs(const Operands<Pipeline, T>& operands, int64_t at,
                                              const Packed<T, N> (&y)[Pipeline::kOutputs]) {
#pragma unroll
  for (int k = 0; k < Pipeline::kOutputs; ++k) store(operands.y[k] + at, y[k]);
}

}  // namespace fused_dropout

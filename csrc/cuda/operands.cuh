// What an elementwise kernel is given: its pipeline and its noise, and the tensors that it reads and writes.
#pragma once

#include "../core/elementwise.h"
#include "octet.cuh"

namespace fused_dropout {

// What every kernel starts from. The pipeline is made on the host where p is known there: it takes divisions in
// float64.
template <class Pipeline>
struct Common {
  Pipeline pipeline;
  StateSource state;
  int64_t* state_out;
  ProbabilitySource p;
  Gain gain;

  static Common of(const ElementwiseArgs& args) {
    return {Pipeline(args.p.value, args.gain), args.state, args.state_out, args.p, args.gain};
  }
  __device__ __forceinline__ Pipeline load_pipeline() const {
    return p.p_ptr == nullptr ? pipeline : Pipeline(p.load(), gain);
  }
  __device__ __forceinline__ Mask load_mask() const { return Mask(load_state(state, state_out), p.load()); }
};

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

// What an elementwise kernel is given: its pipeline and its noise, and the tensors that it reads and writes.
#pragma once

#include "../core/elementwise.h"
#include "octet.cuh"
#include "vector.cuh"

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
  bool by_value;  // p and the state, and nobody waits for a copy: a test instead of four

  static Common of(const ElementwiseArgs& args) {
    const bool by_value = !args.state.seed_ptr && !args.state.offset_ptr && !args.state_out && !args.p.p_ptr;
    return {Pipeline(args.p.value, args.gain), args.state, args.state_out, args.p, args.gain, by_value};
  }
  __device__ __forceinline__ Pipeline load_pipeline() const {
    return p.p_ptr == nullptr ? pipeline : Pipeline(p.load(), gain);
  }
  __device__ __forceinline__ Mask load_mask() const { return Mask(load_state(state, state_out), p.load()); }

  struct Both {
    Pipeline pipeline;
    Mask mask;
  };
  __device__ __forceinline__ Both load() const {
    if (by_value) return {pipeline, Mask({state.seed, state.offset}, p.value)};
    return {load_pipeline(), load_mask()};
  }
};

template <class Pipeline, class T>
struct Operands {
  T* y[Pipeline::kOutputs];
  const T* x[Pipeline::kInputs + 1];
};

// Of a kernel whose operands and mask are a single row, but for a bias, which repeats.
template <class Pipeline, class T>
struct LinearArgs {
  static constexpr bool kBiased = Pipeline::kBias >= 0;
  Common<Pipeline> common;
  Operands<Pipeline, T> operands;
  int64_t numel;
  uint64_t mask_base;
  uint32_t features;  // of a bias, below 2^31
  uint32_t advance;   // what a warp's access takes it on by, modulo these

  __device__ __forceinline__ uint32_t column(int64_t at) const {
    return kBiased ? static_cast<uint32_t>(Layout::take(at, features)) : 0;
  }
  __device__ __forceinline__ void move_on(uint32_t& column) const {
    column += advance;
    if (column >= features) column -= features;
  }

  template <int N>
  __device__ __forceinline__ void load(int64_t at, uint32_t column, Packed<T, N> (&x)[Pipeline::kInputs + 1]) const {
#pragma unroll
    for (int k = 0; k < Pipeline::kInputs; ++k) {
      x[k] = k == Pipeline::kBias ? fused_dropout::load<N>(operands.x[k] + column)
                                  : fused_dropout::load<N>(operands.x[k] + at);
    }
  }
};

template <int N, class Pipeline, class T>
__device__ __forceinline__ void store_outputs(const Operands<Pipeline, T>& operands, int64_t at,
                                              const Packed<T, N> (&y)[Pipeline::kOutputs]) {
#pragma unroll
  for (int k = 0; k < Pipeline::kOutputs; ++k) store(operands.y[k] + at, y[k]);
}

// Of a kernel whose operands and mask have any strides.
template <class Pipeline, class T>
struct StridedArgs {
  Common<Pipeline> common;
  Operands<Pipeline, T> operands;
  Layout layout;
  const uint64_t* keep_bits;
  int64_t runs, run, octets_in_run;  // a run's elements, and octets
  bool vectors;  // inner strides are 1, and every run of every operand starts at a multiple of 16 bytes

  // N elements of a run that begins at `at`, from number `i` on.
  template <int N>
  __device__ __forceinline__ void load(const Offsets& at, int64_t i, Packed<T, N> (&x)[Pipeline::kInputs + 1]) const {
#pragma unroll
    for (int k = 0; k < Pipeline::kInputs; ++k) {
      x[k] = fused_dropout::load<N>(operands.x[k] + place(at, Pipeline::kOutputs + k, i));
    }
  }
  template <int N, class Decisions>
  __device__ __forceinline__ void store(const Offsets& at, int64_t i, const Pipeline& pipeline, Decisions decisions,
                                        const Packed<T, N> (&x)[Pipeline::kInputs + 1]) const {
    Packed<T, N> y[Pipeline::kOutputs];
    compute<N>(pipeline, decisions, x, y, std::make_index_sequence<Pipeline::kInputs>{});
#pragma unroll
    for (int k = 0; k < Pipeline::kOutputs; ++k) fused_dropout::store(operands.y[k] + place(at, k, i), y[k]);
  }
  __device__ __forceinline__ int64_t place(const Offsets& at, int k, int64_t i) const {
    return at.operand[k] + i * layout.stride[k][0];
  }
};

// A mask that lies in memory takes registers as two operands do.
template <class Pipeline>
constexpr int kStridedOperands = Pipeline::kOutputs + Pipeline::kInputs + (Pipeline::kNoise == Noise::kStored ? 1 : 0);

}  // namespace fused_dropout

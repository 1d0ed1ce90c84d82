// What every kernel does with eight elements: find their keep bits, and put them through a pipeline.
#pragma once

#include <utility>

#include "../core/mask.h"
#include "launch.h"
#include "vector.cuh"

namespace fused_dropout {

// A kernel that drew its state on the device leaves a copy for the backward.
__device__ __forceinline__ State load_state(const StateSource& source, int64_t* state_out) {
  const State state = source.load();
  if (state_out != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    state_out[0] = static_cast<int64_t>(state.seed);
    state_out[1] = static_cast<int64_t>(state.offset & ~uint64_t{3});
  }
  return state;
}

// The keep bits of 8 consecutive mask indices, from any index on; the bits above them are of no meaning.
__device__ __forceinline__ uint32_t keep_octet(const Mask& mask, uint64_t mask_index) {
  const uint32_t skip = static_cast<uint32_t>(mask_index % kGroup);
  uint32_t bits = 0;
#pragma unroll 1  // one copy of the generator in the code, run once where the mask is aligned to the octet
  for (uint32_t group = 0; group < (skip ? 2u : 1u); ++group) {
    bits |= mask.keep_group(mask_index / kGroup + group) << (kGroup * group);
  }
  return bits >> skip;
}

// The keep bits of access j of a lane, where an access has N elements: the octet they belong to is another lane's.
template <int N>
__device__ __forceinline__ uint32_t octet_of(uint32_t octet, int j, int lane) {
  return __shfl_sync(0xffffffffu, octet, (j * kWarp + lane) * N / kGroup) >> (lane * N % kGroup);
}

// Computes N elements whose keep bits are the lowest of `bits`; with N = 1 this is the tail and the strided access.
template <int N, class Pipeline, class T, size_t... K>
__device__ __forceinline__ void compute(const Pipeline& pipeline, uint32_t bits,
                                        const Packed<T, N> (&x)[Pipeline::kInputs + 1], Packed<T, N>& y,
                                        std::index_sequence<K...>) {
  using C = Compute<T>;
  C in[Pipeline::kInputs + 1][N], out[N];
  (Convert<T>::template up<N>(x[K], in[K]), ...);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const bool keep = bits >> i & 1;
    if constexpr (Pipeline::kInputs == 0) {
      out[i] = pipeline(keep, C(0));
    } else {
      out[i] = pipeline(keep, in[K][i]...);
    }
  }
  Convert<T>::template down<N>(out, y);
}

}  // namespace fused_dropout

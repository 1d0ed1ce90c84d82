// A row on the GPU: sums over the threads that share it.
#pragma once

#include "../core/row_operations.h"
#include "launch.h"
#include "octet.cuh"
#include "row_memory.cuh"

namespace fused_dropout {

__device__ __forceinline__ float of_lane(float x, int lane) {
  return bit_cast<float>(__shfl_sync(0xffffffffu, bit_cast<uint32_t>(x), lane));
}
__device__ __forceinline__ double of_lane(double x, int lane) {
  const uint64_t bits = bit_cast<uint64_t>(x);
  const uint64_t low = __shfl_sync(0xffffffffu, static_cast<uint32_t>(bits), lane);
  const uint64_t high = __shfl_sync(0xffffffffu, static_cast<uint32_t>(bits >> 32), lane);
  return bit_cast<double>(high << 32 | low);
}

template <bool kMaximum, class C>
__device__ __forceinline__ C combined(C a, C b) {
  return kMaximum ? where_less(a, b, b, a) : a + b;
}

// Over a team: a warp, or a block of kThreads. Every thread gets the result.
template <int kTeam, bool kMaximum, int N, class C>
__device__ __forceinline__ void reduce(C (&x)[N]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int k = 0; k < N; ++k) {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) x[k] = combined<kMaximum>(x[k], of_lane(x[k], lane ^ step));
  }
  if constexpr (kTeam > kWarp) {
    constexpr int kWarps = kTeam / kWarp;
    __shared__ C of_warp[N][kWarps];
    __syncthreads();  // until the last ones have been read
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (lane == 0) of_warp[k][threadIdx.x / kWarp] = x[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < N; ++k) {
      x[k] = of_warp[k][0];
      for (int w = 1; w < kWarps; ++w) x[k] = combined<kMaximum>(x[k], of_warp[k][w]);
    }
  }
}

}  // namespace fused_dropout

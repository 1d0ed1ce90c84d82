// A row on the GPU: its operands in octets of 8 elements, and sums over the threads that share it.
#pragma once

#include "../core/row_operations.h"
#include "launch.h"
#include "octet.cuh"

namespace fused_dropout {

// Memory need not be aligned, nor the row end with an octet: then it goes element by element.
template <class T>
__device__ __forceinline__ bool whole_octet(const T* p, int64_t left) {
  return left >= kGroup && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * kVector<T>) == 0;
}

template <class T>
__device__ __forceinline__ void load_octet(const T* p, int64_t left, Compute<T> otherwise, Compute<T> (&x)[kGroup]) {
  if (p == nullptr) {
#pragma unroll
    for (int e = 0; e < kGroup; ++e) x[e] = otherwise;
  } else if (whole_octet(p, left)) {
    constexpr int N = kVector<T>;
#pragma unroll
    for (int v = 0; v < kGroup; v += N) {
      Compute<T> some[N];
      Convert<T>::template up<N>(load<N>(p + v), some);
#pragma unroll
      for (int e = 0; e < N; ++e) x[v + e] = some[e];
    }
  } else {
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      Compute<T> one[1] = {otherwise};
      if (e < left) Convert<T>::template up<1>(load<1>(p + e), one);
      x[e] = one[0];
    }
  }
}

template <class T>
__device__ __forceinline__ void store_octet(T* p, int64_t left, const Compute<T> (&x)[kGroup]) {
  if (whole_octet(p, left)) {
    constexpr int N = kVector<T>;
#pragma unroll
    for (int v = 0; v < kGroup; v += N) {
      Compute<T> some[N];
#pragma unroll
      for (int e = 0; e < N; ++e) some[e] = x[v + e];
      Packed<T, N> packed;
      Convert<T>::template down<N>(some, packed);
      store(p + v, packed);
    }
  } else {
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      Compute<T> one[1] = {x[e]};
      Packed<T, 1> packed;
      Convert<T>::template down<1>(one, packed);
      if (e < left) store(p + e, packed);
    }
  }
}

// As a store and a load would have it.
template <class T>
__device__ __forceinline__ Compute<T> rounded(Compute<T> x) {
  Compute<T> one[1] = {x};
  Packed<T, 1> packed;
  Convert<T>::template down<1>(one, packed);
  Convert<T>::template up<1>(packed, one);
  return one[0];
}

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

// Memory access of the GPU kernels: so many elements in one instruction, and their conversion to the type computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../core/dtype.h"

namespace fused_dropout {

// Loads and stores as one access of sizeof(T) * N bytes, 16 at the most; the address is a multiple of that.
template <class T, int N>
struct alignas(sizeof(T) * N) Packed {
  T element[N];
};

// Elements in an access of 16 bytes. A Philox block decides kGroup elements, so a thread never takes more in one.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T)) < kGroup ? 16 / static_cast<int>(sizeof(T)) : kGroup;

// As csrc/core/dtype.h has them.
template <class T>
struct Convert {
  template <int N>
  static __device__ __forceinline__ void up(const Packed<T, N>& from, Compute<T> (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = to_compute(from.element[i]);
  }
  template <int N>
  static __device__ __forceinline__ void down(const Compute<T> (&from)[N], Packed<T, N>& to) {
#pragma unroll
    for (int i = 0; i < N; ++i) from_compute(from[i], to.element[i]);
  }
};

#if defined(__CUDACC__)
// The hardware's: two at a time where there is an instruction for it, half as many as one by one.
template <>
struct Convert<Half> {
  template <int N>
  static __device__ __forceinline__ void up(const Packed<Half, N>& from, float (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = __half2float(__ushort_as_half(from.element[i].bits));
  }
  template <int N>
  static __device__ __forceinline__ void down(const float (&from)[N], Packed<Half, N>& to) {
#pragma unroll
    for (int i = 0; i + 1 < N; i += 2) {
      const __half2 pair = __floats2half2_rn(from[i], from[i + 1]);
      to.element[i].bits = __half_as_ushort(__low2half(pair));
      to.element[i + 1].bits = __half_as_ushort(__high2half(pair));
    }
    if (N % 2) to.element[N - 1].bits = __half_as_ushort(__float2half_rn(from[N - 1]));
  }
};

template <>
struct Convert<BFloat16> {
  template <int N>
  static __device__ __forceinline__ void up(const Packed<BFloat16, N>& from, float (&to)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = to_compute(from.element[i]);
  }
  template <int N>
  static __device__ __forceinline__ void down(const float (&from)[N], Packed<BFloat16, N>& to) {
#pragma unroll
    for (int i = 0; i + 1 < N; i += 2) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(from[i], from[i + 1]);
      to.element[i].bits = __bfloat16_as_ushort(__low2bfloat16(pair));
      to.element[i + 1].bits = __bfloat16_as_ushort(__high2bfloat16(pair));
    }
    if (N % 2) to.element[N - 1].bits = __bfloat16_as_ushort(__float2bfloat16_rn(from[N - 1]));
  }
};
#endif

}  // namespace fused_dropout

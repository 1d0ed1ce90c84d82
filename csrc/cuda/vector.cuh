// Memory access of the GPU kernels: so many elements in one instruction, and their conversion to the type computed in.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../core/dtype.h"

namespace fused_dropout {

template <class T, int N>
struct Packed {
  T element[N];
};

// The register type of an access of so many bytes.
template <int kBytes>
struct Access;
template <>
struct Access<1> {
  using type = uint8_t;
};
template <>
struct Access<2> {
  using type = uint16_t;
};
template <>
struct Access<4> {
  using type = uint32_t;
};
template <>
struct Access<8> {
  using type = uint2;
};
template <>
struct Access<16> {
  using type = uint4;
};

// Says where it points. nvcc 13.0 forgets that of a pointer which a loop moves on, and loads from anywhere (sm_100).
template <class T>
__device__ __forceinline__ const T* global(const T* p) {
  __builtin_assume(__isGlobal(p));
  return p;
}

// `p` is a multiple of the access's size.
template <int N, class T>
__device__ __forceinline__ Packed<T, N> load(const T* p) {
  return bit_cast<Packed<T, N>>(*reinterpret_cast<const typename Access<sizeof(T) * N>::type*>(p));
}
// An ordinary (write-back) store, but by its intrinsic: nvcc takes an assignment of packed pairs apart again, and
// stores eight bfloat16 elements in four accesses on sm_80 and sm_90 (tests/test_machine_code.py).
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Packed<T, N>& x) {
  using Type = typename Access<sizeof(T) * N>::type;
  __stwb(reinterpret_cast<Type*>(p), bit_cast<Type>(x));
}

// Hides where a value comes from.
__device__ __forceinline__ uint32_t opaque(uint32_t x) {
  asm("" : "+r"(x));
  return x;
}

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
    // Two of a word: the upper one needs a mask, where nvcc takes it out to shift it back.
#pragma unroll
    for (int i = 0; i + 1 < N; i += 2) {
      const auto both = bit_cast<uint32_t>(Packed<BFloat16, 2>{from.element[i], from.element[i + 1]});
      to[i] = bit_cast<float>(both << 16);
      to[i + 1] = bit_cast<float>(both & 0xffff0000u);
    }
    if (N % 2) to[N - 1] = to_compute(from.element[N - 1]);
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

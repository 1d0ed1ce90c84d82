// Octets of 8 neighbours in a row, read and written where rows may begin and end anywhere.
#pragma once

#include "launch.h"
#include "vector.cuh"

namespace fused_dropout {

// Memory need not be aligned, nor the row end with an octet: then it goes element by element.
template <class T>
__device__ __forceinline__ bool whole_octet(const T* p, int64_t left) {
  return left >= kGroup && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * kVector<T>) == 0;
}

// As it lies in memory, in words: several are under way before the first one is waited for. (As elements nvcc would
// take them apart as soon as they come, where both ways to load them meet.)
template <class T>
struct Octet {
  static constexpr int N = kVector<T>, kWords = static_cast<int>(sizeof(T)) * kGroup / 4;
  struct Words {
    uint32_t of[kWords];
  };
  struct Parts {
    Packed<T, N> of[kGroup / N];
  };
  Words words;

  // What lies beyond the row's end, or nowhere, is `otherwise`.
  __device__ __forceinline__ void load(const T* p, int64_t left, Compute<T> otherwise) {
    if (p != nullptr && whole_octet(p, left)) {
      uint4 wide[kWords / 4];
#pragma unroll
      for (int v = 0; v < kWords / 4; ++v) wide[v] = reinterpret_cast<const uint4*>(p)[v];
#pragma unroll
      for (int v = 0; v < kWords / 4; ++v) {
        words.of[4 * v] = wide[v].x, words.of[4 * v + 1] = wide[v].y;
        words.of[4 * v + 2] = wide[v].z, words.of[4 * v + 3] = wide[v].w;
      }
    } else {
      Parts parts;
      T missing;
      from_compute(otherwise, missing);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) parts.of[e / N].element[e % N] = p != nullptr && e < left ? p[e] : missing;
      words = bit_cast<Words>(parts);
    }
  }

  __device__ __forceinline__ void convert(Compute<T> (&x)[kGroup]) const {
    Words hidden;
#pragma unroll
    for (int w = 0; w < kWords; ++w) hidden.of[w] = opaque(words.of[w]);
    const auto parts = bit_cast<Parts>(hidden);
#pragma unroll
    for (int v = 0; v < kGroup / N; ++v) {
      Compute<T> some[N];
      Convert<T>::template up<N>(parts.of[v], some);
#pragma unroll
      for (int e = 0; e < N; ++e) x[v * N + e] = some[e];
    }
  }
};

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

}  // namespace fused_dropout

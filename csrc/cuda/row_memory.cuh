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

}  // namespace fused_dropout

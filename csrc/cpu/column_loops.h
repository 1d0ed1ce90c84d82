// Sums of columns: rows that have just been written, and lie in a cache, are added to the sums of a part of all rows.
//
// A column adds its elements in the order of the rows, so the sums are those of every instruction set.
#pragma once

#include "batches.h"

namespace fused_dropout {

template <class Isa>
struct AddRows {
  const void* rows;
  int64_t count, features;
  void* sums;  // of the type computed in

  template <class T>
  void operator()(T) const {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr int kPair = 2 * V::kLanes, kPairs = kBatch / kPair;
    const T* const from = static_cast<const T*>(rows);
    C* const to = static_cast<C*>(sums);
    int64_t i = 0;
    for (; i + kBatch <= features; i += kBatch) {
      V sum[kPairs][2];
      for (int k = 0; k < kPairs; ++k) {
        for (int half = 0; half < 2; ++half) sum[k][half] = V::template load_as<T>(to + i + k * kPair, half);
      }
      for (int64_t r = 0; r < count; ++r) {
        const T* const row = from + r * features + i;
#pragma GCC unroll 8
        for (int k = 0; k < kPairs; ++k) {
          for (int half = 0; half < 2; ++half) sum[k][half] = sum[k][half] + V::load(row + k * kPair, half);
        }
      }
      for (int k = 0; k < kPairs; ++k) V::template store_as<T>(sum[k][0], sum[k][1], to + i + k * kPair);
    }
    for (int64_t r = 0; r < count && i < features; ++r) {
      for (int64_t j = i; j < features; ++j) to[j] += to_compute(from[r * features + j]);
    }
  }
};

template <class Isa>
void add_rows(DType dtype, const void* rows, int64_t count, int64_t features, void* sums) {
  const AddRows<Isa> add{rows, count, features, sums};
  switch (dtype) {
    case DType::kFloat16:
      return add(Half{});
    case DType::kBFloat16:
      return add(BFloat16{});
    case DType::kFloat64:
      return add(double{});
    default:
      return add(float{});
  }
}

}  // namespace fused_dropout

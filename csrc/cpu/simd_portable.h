// Any machine: 16-byte vectors of values (SSE2 and NEON have them), scalar Philox.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Portable {
  static constexpr int kBytes = 16;

  static FD_HOST_DEVICE uint64_t keep_batch(const Mask& mask, const PhiloxKeyTable&, uint64_t group, uint64_t& ties) {
    uint64_t keep = 0;
    for (int g = 0; g < kBatch / kGroup; ++g) {
      keep |= static_cast<uint64_t>(mask.keep_group(group + static_cast<uint64_t>(g))) << (kGroup * g);
    }
    ties = 0;  // keep_group has resolved them
    return keep;
  }

  template <class Values>
  static FD_HOST_DEVICE Values load_half(const Half* p) {
    Values v;
    for (size_t i = 0; i < sizeof(v) / sizeof(float); ++i) v[i] = to_compute(p[i]);
    return v;
  }

  template <class Values>
  static FD_HOST_DEVICE void store_half(const Values& v, Half* p) {
    for (size_t i = 0; i < sizeof(v) / sizeof(float); ++i) from_compute(v[i], p[i]);
  }
};

}  // namespace fused_dropout

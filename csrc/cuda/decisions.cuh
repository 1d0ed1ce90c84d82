// The decisions about several groups at once, for the linear kernel: halves of words, compared with the threshold where
// an element asks, instead of bits put into a word and taken out again (51 instructions a group, here 20 with ties).
#pragma once

#include "../core/mask.h"
#include "launch.h"
#include "vector.cuh"

namespace fused_dropout {

// Philox' lane for N groups: a round of all of them, then the next. They share the round's key, and what does not
// depend on the group's number: two multiplications and an xor. Two words instead of one of 64 bits, since nvcc adds a
// zero to the upper half of each product otherwise, 20 instructions a block.
template <int N>
struct Lanes {
  uint32_t low[N], high[N];
};
template <int N>
FD_HOST_DEVICE Lanes<N> multiply_low32(const Lanes<N>& a, uint32_t b) {
  Lanes<N> product;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const uint64_t wide = static_cast<uint64_t>(a.low[n]) * b;
    product.low[n] = static_cast<uint32_t>(wide);
    product.high[n] = static_cast<uint32_t>(wide >> 32);
  }
  return product;
}
template <int N>
FD_HOST_DEVICE Lanes<N> shift_right_32(Lanes<N> a) {
#pragma unroll
  for (int n = 0; n < N; ++n) a.low[n] = a.high[n];
  return a;
}
template <int N>
FD_HOST_DEVICE Lanes<N> xor3(Lanes<N> a, const Lanes<N>& b, uint64_t key) {
#pragma unroll
  for (int n = 0; n < N; ++n) a.low[n] ^= b.low[n] ^ static_cast<uint32_t>(key);
  return a;
}

// What nvcc knows to be half of 64 bits it multiplies in 64 bits, with an addition of zero to each product; and what it
// knows to be shifted it shifts last, in an instruction of its own.
__device__ __forceinline__ uint32_t lower(uint64_t x) { return opaque(static_cast<uint32_t>(x)); }
__device__ __forceinline__ uint32_t upper(uint64_t x) { return opaque(static_cast<uint32_t>(x >> 32)); }

__device__ __forceinline__ uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

// Of a group: how far its halves lie above the threshold, in the upper half of a word each and modulo 2^16. Those below
// it are farther than the largest one above it. The lower half of a word is what follows, and changes no decision.
struct Distances {
  uint32_t of[kGroup];
  uint32_t farthest;
};
__device__ __forceinline__ bool decision(const Distances& distances, int i) {
  return distances.of[i] <= distances.farthest;
}

// The decisions about N groups of which each is kWarp behind the one before, but for ties.
template <int N>
class Decisions {
 public:
  // `group` and those behind it have the same upper 32 bits.
  __device__ __forceinline__ Decisions(const Mask& mask, uint64_t group)
      // Where everything is dropped, every half is a tie or lies below it.
      : threshold_(opaque(least(mask.high_threshold(), 0xffff) << 16)) {
    const uint32_t counter[] = {lower(mask.step), upper(mask.step), lower(group), upper(group)};
#pragma unroll
    for (int n = 0; n < N; ++n) {
#pragma unroll
      for (int w = 0; w < 4; ++w) block_.word[w].low[n] = counter[w] + (w == 2 ? n * kWarp : 0);
    }
    block_ = philox4x32_10(block_, PhiloxKey{uint64_t{upper(mask.seed)} << 32 | lower(mask.seed)});
  }

  __device__ __forceinline__ Distances of(int n) const {
    Distances distances{{}, ~threshold_};
#pragma unroll
    for (int w = 0; w < kGroup / 2; ++w) {
      const uint32_t word = block_.word[w].low[n];
      distances.of[2 * w] = (word << 16) - threshold_;
      distances.of[2 * w + 1] = word - threshold_;
    }
    return distances;
  }

  // The keep bits of the groups, in a byte each.
  __device__ __forceinline__ uint32_t bits() const {
    uint32_t bits = 0;
#pragma unroll
    for (int n = N - 1; n >= 0; --n) {
      const Distances distances = of(n);
#pragma unroll
      for (int i = kGroup - 1; i >= 0; --i) bits = bits * 2 + static_cast<uint32_t>(decision(distances, i));
    }
    return bits;
  }

  // Whether any half equals the threshold's, so that its low half decides: once in 65,536 elements.
  __device__ __forceinline__ bool ties() const {
    uint32_t nearest = ~uint32_t{0};
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const Distances distances = of(n);
#pragma unroll
      for (int i = 0; i < kGroup; i += 2) nearest = least(nearest, least(distances.of[i], distances.of[i + 1]));
    }
    return nearest < 0x10000;
  }

 private:
  PhiloxBlock<Lanes<N>> block_;
  uint32_t threshold_;
};

// The keep bits of N groups, each kWarp behind the one before, in a byte each, from all 32 bits of their words. In
// place, as a call would put what lies in registers into memory.
template <int N>
__device__ __forceinline__ uint32_t keep_groups(const Mask& mask, uint64_t group) {
  static_assert(N * kGroup <= 32, "a word holds them");
  uint32_t bits = 0;
#pragma unroll 1
  for (int n = 0; n < N; ++n) {
    const PhiloxBlock<uint64_t> high = mask_block(mask.seed, mask.step, group + n * kWarp);
    const PhiloxBlock<uint64_t> low = mask_block(mask.seed, mask.step + 1, group + n * kWarp);
#pragma unroll
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t word = half(high, i) << 16 | half(low, i);
      bits |= static_cast<uint32_t>(word >= mask.p.drop_below) << (kGroup * n + i);
    }
  }
  return bits;
}

}  // namespace fused_dropout

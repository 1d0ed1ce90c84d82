// Any machine: 16-byte vectors of values (SSE2 and NEON have them), scalar Philox.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Portable : VectorKeep<16> {
  static constexpr int kBytes = 16;
  static constexpr bool kUnrolled = false;  // whether loops of short pipelines are
  static constexpr int kWords = 1, kLinearWords = 1;

  // High halves of the words of 64 N consecutive mask indices. Out of line: it is long, and a call is nothing beside
  // it.
  template <int N>
  struct Halves {
    uint16_t half[N * kBatch];
  };
  template <int N>
  static __attribute__((noinline)) Halves<N> halves(const Mask& mask, const PhiloxKeyTable&, uint64_t group, uint64_t) {
    Halves<N> h;
    for (int g = 0; g < N * kBatch / kGroup; ++g) {
      const PhiloxBlock<uint64_t> b = mask_block(mask.seed, mask.step, group + static_cast<uint64_t>(g));
      for (int lane = 0; lane < kGroup; ++lane) h.half[kGroup * g + lane] = static_cast<uint16_t>(half(b, lane));
    }
    return h;
  }

  template <int N>
  static FD_HOST_DEVICE void store_halves(const Halves<N>& h, uint16_t* p) {
    std::memcpy(p, h.half, sizeof(h.half));
  }

  template <int N, class Compare>
  static FD_HOST_DEVICE Words<N> bits(const Halves<N>& h, const Compare& compare) {
    Words<N> words{};
    for (int i = 0; i < N * kBatch; ++i) {
      words.word[i / kBatch] |= static_cast<uint64_t>(compare(h.half[i])) << i % kBatch;
    }
    return words;
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> at_least(const Halves<N>& h, uint32_t threshold) {
    return bits(h, [=](uint32_t half) { return half >= threshold; });
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> equal(const Halves<N>& h, uint32_t threshold) {
    return bits(h, [=](uint32_t half) { return half == threshold; });
  }
  template <int N>
  static FD_HOST_DEVICE bool any_equal(const Halves<N>& h, uint32_t threshold) {
    bool any = false;
    for (const uint16_t half : h.half) any |= half == threshold;
    return any;
  }

  // A byte a bit, 0 or 1.
  static FD_HOST_DEVICE void store_truths(uint64_t bits, uint8_t* p) {
    for (int i = 0; i < kBatch; ++i) p[i] = static_cast<uint8_t>(bits >> i & 1);
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

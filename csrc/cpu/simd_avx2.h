// AVX2 with F16C and FMA: four Philox lanes of 64 bits in a register, and several registers side by side: one chain
// of dependent multiplications alone would leave the multipliers idle most of the time.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx2 : VectorKeep<32> {
  static constexpr int kBytes = 32;
  static constexpr bool kUnrolled = true;  // whether loops of short pipelines are
  static constexpr bool kScales = false;   // whether there is an instruction for m 2^n
  static constexpr int kWords = 1, kLinearWords = 3;

  template <int N>
  struct Lane {
    __m256i v[2 * N];
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
#pragma GCC unroll 8
      for (__m256i& v : a.v) v = _mm256_mul_epu32(v, _mm256_set1_epi64x(b));
      return a;
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) {
#pragma GCC unroll 8
      for (__m256i& v : a.v) v = _mm256_srli_epi64(v, 32);
      return a;
    }
    // The key, which comes last, is the same for all.
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, __m256i key) {
#pragma GCC unroll 8
      for (int i = 0; i < 2 * N; ++i) a.v[i] = _mm256_xor_si256(_mm256_xor_si256(a.v[i], b.v[i]), key);
      return a;
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE __m256i operator()(int round, int word) const {
      return _mm256_set1_epi64x(static_cast<int64_t>(table.key[2 * round + word]));
    }
  };

  template <int N>
  static FD_HOST_DEVICE Lane<N> everywhere(uint64_t x) {
    Lane<N> lane;
#pragma GCC unroll 8
    for (__m256i& v : lane.v) v = _mm256_set1_epi64x(static_cast<int64_t>(x));
    return lane;
  }

  // High halves of the words of 64 N consecutive mask indices: of the even and the odd groups of each four.
  template <int N>
  struct Halves {
    __m256i even[2 * N], odd[2 * N];
  };

  template <int N>
  static FD_HOST_DEVICE Halves<N> halves(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group, uint64_t high) {
    PhiloxBlock<Lane<N>> b{{everywhere<N>(mask.step), everywhere<N>(mask.step >> 32), {}, everywhere<N>(high)}};
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) {
      b.word[2].v[i] =
          _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(group) + 4 * i), _mm256_set_epi64x(3, 2, 1, 0));
    }
    b = philox4x32_10(b, Key{keys});
    Halves<N> h;
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) {
      // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
      const __m256i first = _mm256_blend_epi32(b.word[0].v[i], _mm256_slli_epi64(b.word[1].v[i], 32), 0xaa);
      const __m256i last = _mm256_blend_epi32(b.word[2].v[i], _mm256_slli_epi64(b.word[3].v[i], 32), 0xaa);
      h.even[i] = _mm256_unpacklo_epi64(first, last);
      h.odd[i] = _mm256_unpackhi_epi64(first, last);
    }
    return h;
  }

  template <int N>
  static FD_HOST_DEVICE void store_halves(const Halves<N>& h, uint16_t* p) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i, p += kBatch / 2) {
      __m256i* const to = reinterpret_cast<__m256i*>(p);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(h.even[i], h.odd[i], 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(h.even[i], h.odd[i], 0x31));
    }
  }

  // A bit an element. Packing interleaves the 128-bit halves of both, which puts the groups into their order.
  template <int N, class Compare>
  static FD_HOST_DEVICE Words<N> bits(const Halves<N>& h, const Compare& compare) {
    const auto half = [&](int i) {
      const __m256i packed = _mm256_packs_epi16(compare(h.even[i]), compare(h.odd[i]));
      return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(packed)));
    };
    Words<N> words;
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) words.word[w] = half(2 * w + 1) << 32 | half(2 * w);
    return words;
  }
  static FD_HOST_DEVICE __m256i everywhere16(uint32_t x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }

  template <int N>
  static FD_HOST_DEVICE Words<N> at_least(const Halves<N>& h, uint32_t threshold) {
    const __m256i t = everywhere16(threshold);
    return bits(h, [=](__m256i half) { return _mm256_cmpeq_epi16(_mm256_max_epu16(half, t), half); });
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> equal(const Halves<N>& h, uint32_t threshold) {
    const __m256i t = everywhere16(threshold);
    return bits(h, [=](__m256i half) { return _mm256_cmpeq_epi16(half, t); });
  }
  template <int N>
  static FD_HOST_DEVICE bool any_equal(const Halves<N>& h, uint32_t threshold) {
    const __m256i t = everywhere16(threshold);
    __m256i any = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) {
      any = _mm256_or_si256(any, _mm256_or_si256(_mm256_cmpeq_epi16(h.even[i], t), _mm256_cmpeq_epi16(h.odd[i], t)));
    }
    return !_mm256_testz_si256(any, any);
  }

  // A byte a bit, 0 or 1.
  static FD_HOST_DEVICE void store_truths(uint64_t bits, uint8_t* p) {
    const __m256i byte = _mm256_set_epi64x(0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0);
    const __m256i bit = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    for (int i = 0; i < kBatch; i += 32) {
      const __m256i word = _mm256_set1_epi32(static_cast<int32_t>(bits >> i));
      const __m256i own = _mm256_and_si256(_mm256_shuffle_epi8(word, byte), bit);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + i), _mm256_min_epu8(own, _mm256_set1_epi8(1)));
    }
  }

  static FD_HOST_DEVICE __m256 multiply_add(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
  static FD_HOST_DEVICE __m256d multiply_add(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }

  template <class Values>
  static FD_HOST_DEVICE Values load_half(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  template <class Values>
  static FD_HOST_DEVICE void store_half(const Values& v, Half* p) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

}  // namespace fused_dropout

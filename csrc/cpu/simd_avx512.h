// AVX-512 (F, BW, DQ, VL): eight Philox lanes of 64 bits in a register, and two registers side by side, 16 groups: one
// chain of dependent multiplications alone leaves the multipliers idle most of the time. (64 Ki floats in cache on Zen
// 4: 2.7 billion elements a second with one chain, 4.4 with two, 4.1 with four.)
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx512 {
  static constexpr int kBytes = 64;
  static constexpr bool kUnrolled = true;  // whether loops of short pipelines are
  static constexpr int kWords = 2;

  // Truth values live in mask registers, which is what keep bits are.
  template <class C>
  using Keep = std::conditional_t<sizeof(C) == 4, __mmask16, __mmask8>;
  template <class C>
  static FD_HOST_DEVICE Keep<C> keep_of(uint64_t bits) {
    return static_cast<Keep<C>>(bits);
  }
  static FD_HOST_DEVICE __m512 select(__mmask16 keep, __m512 kept, __m512 dropped) {
    return _mm512_mask_blend_ps(keep, dropped, kept);
  }
  static FD_HOST_DEVICE __m512d select(__mmask8 keep, __m512d kept, __m512d dropped) {
    return _mm512_mask_blend_pd(keep, dropped, kept);
  }

  struct Lane {
    __m512i v[2];
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
      const __m512i factor = _mm512_set1_epi64(b);
      return {{_mm512_mul_epu32(a.v[0], factor), _mm512_mul_epu32(a.v[1], factor)}};
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) {
      return {{_mm512_srli_epi64(a.v[0], 32), _mm512_srli_epi64(a.v[1], 32)}};
    }
    // The key, which comes last, is the same for both.
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, __m512i key) {
      return {
          {_mm512_ternarylogic_epi64(a.v[0], b.v[0], key, 0x96), _mm512_ternarylogic_epi64(a.v[1], b.v[1], key, 0x96)}};
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE __m512i operator()(int round, int word) const {
      return _mm512_set1_epi64(static_cast<int64_t>(table.key[2 * round + word]));
    }
  };

  static FD_HOST_DEVICE Lane everywhere(uint64_t x) {
    const __m512i v = _mm512_set1_epi64(static_cast<int64_t>(x));
    return {{v, v}};
  }

  // High halves of the words of 128 consecutive mask indices, 32 a register.
  struct Halves {
    __m512i low[kWords], high[kWords];
  };

  static FD_HOST_DEVICE Halves halves(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group, uint64_t high) {
    // Groups 0 to 3 in the even lanes and 4 to 7 in the odd ones: unpacking then leaves each four in their order.
    const __m512i from = _mm512_set1_epi64(static_cast<int64_t>(group));
    const Lane groups{{_mm512_add_epi64(from, _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0)),
                       _mm512_add_epi64(from, _mm512_set_epi64(15, 11, 14, 10, 13, 9, 12, 8))}};
    const PhiloxBlock<Lane> b = philox4x32_10(
        PhiloxBlock<Lane>{{everywhere(mask.step), everywhere(mask.step >> 32), groups, everywhere(high)}}, Key{keys});
    Halves h;
    for (int w = 0; w < kWords; ++w) {
      // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
      const __m512i first = _mm512_mask_shuffle_epi32(b.word[0].v[w], 0xaaaa, b.word[1].v[w], _MM_PERM_CCAA);
      const __m512i last = _mm512_mask_shuffle_epi32(b.word[2].v[w], 0xaaaa, b.word[3].v[w], _MM_PERM_CCAA);
      h.low[w] = _mm512_unpacklo_epi64(first, last);
      h.high[w] = _mm512_unpackhi_epi64(first, last);
    }
    return h;
  }

  static FD_HOST_DEVICE void store_halves(const Halves& h, uint16_t* p) {
    for (int w = 0; w < kWords; ++w) {
      _mm512_storeu_si512(p + kBatch * w, h.low[w]);
      _mm512_storeu_si512(p + kBatch * w + kBatch / 2, h.high[w]);
    }
  }

  static FD_HOST_DEVICE __m512i everywhere16(uint32_t x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }

  static FD_HOST_DEVICE void at_least(const Halves& h, uint32_t threshold, uint64_t (&keep)[kWords]) {
    const __m512i t = everywhere16(threshold);
    for (int w = 0; w < kWords; ++w) {
      keep[w] =
          static_cast<uint64_t>(_mm512_cmpge_epu16_mask(h.high[w], t)) << 32 | _mm512_cmpge_epu16_mask(h.low[w], t);
    }
  }
  static FD_HOST_DEVICE void equal(const Halves& h, uint32_t threshold, uint64_t (&ties)[kWords]) {
    const __m512i t = everywhere16(threshold);
    for (int w = 0; w < kWords; ++w) {
      ties[w] =
          static_cast<uint64_t>(_mm512_cmpeq_epi16_mask(h.high[w], t)) << 32 | _mm512_cmpeq_epi16_mask(h.low[w], t);
    }
  }
  static FD_HOST_DEVICE bool any_equal(const Halves& h, uint32_t threshold) {
    const __m512i t = everywhere16(threshold);
    const __mmask32 first = _kor_mask32(_mm512_cmpeq_epi16_mask(h.low[0], t), _mm512_cmpeq_epi16_mask(h.high[0], t));
    const __mmask32 last = _kor_mask32(_mm512_cmpeq_epi16_mask(h.low[1], t), _mm512_cmpeq_epi16_mask(h.high[1], t));
    return !_kortestz_mask32_u8(first, last);
  }

  template <class Values>
  static FD_HOST_DEVICE void store_bfloat16(const Values& first, const Values& second, BFloat16* p) {
    alignas(64) static constexpr uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i low = (__m512i)round_to_bfloat16(first), high = (__m512i)round_to_bfloat16(second);
    _mm512_storeu_si512(p, _mm512_permutex2var_epi16(low, _mm512_load_si512(kUpper), high));
  }

  template <class Values>
  static FD_HOST_DEVICE Values load_half(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }

  template <class Values>
  static FD_HOST_DEVICE void store_half(const Values& v, Half* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
};

}  // namespace fused_dropout

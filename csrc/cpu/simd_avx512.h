// AVX-512 (F, BW, DQ, VL) with BMI2: eight Philox lanes of 64 bits in a register, and several registers side by side:
// one chain of dependent multiplications alone leaves the multipliers idle most of the time. Keep bits stay in mask
// registers; those of bfloat16 pass general ones, where the even and the odd ones are taken apart.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx512 {
  static constexpr int kBytes = 64;
  static constexpr bool kUnrolled = true;  // whether loops of short pipelines are
  static constexpr bool kScales = true;    // whether there is an instruction for m 2^n
  static constexpr int kWords = 2, kLinearWords = 4;

  // Truth values live in mask registers, which is what keep bits are.
  template <class C>
  using Keep = std::conditional_t<sizeof(C) == 4, __mmask16, __mmask8>;
  // The bits from `first` on, one a lane, or every second bit.
  template <class C, int kStep>
  static FD_HOST_DEVICE Keep<C> keep_at(uint64_t bits, int first) {
    if constexpr (kStep == 2) {
      bits = _pext_u64(bits, first % 2 == 0 ? 0x5555555555555555u : 0xaaaaaaaaaaaaaaaau);
      first /= 2;
    }
#if !defined(__clang__)  // GCC takes the bits to a general register and back for a shift that is written as one
    if (__builtin_constant_p(first))
      return static_cast<Keep<C>>(first > 0 ? __builtin_ia32_kshiftridi(bits, first) : bits);
#endif
    return static_cast<Keep<C>>(bits >> first);
  }
  static FD_HOST_DEVICE __m512 select(__mmask16 keep, __m512 kept, __m512 dropped) {
    return _mm512_mask_blend_ps(keep, dropped, kept);
  }
  static FD_HOST_DEVICE __m512d select(__mmask8 keep, __m512d kept, __m512d dropped) {
    return _mm512_mask_blend_pd(keep, dropped, kept);
  }

  template <int N>
  struct Lane {
    __m512i v[N];
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
#pragma GCC unroll 8
      for (__m512i& v : a.v) v = _mm512_mul_epu32(v, _mm512_set1_epi64(b));
      return a;
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) {
#pragma GCC unroll 8
      for (__m512i& v : a.v) v = _mm512_srli_epi64(v, 32);
      return a;
    }
    // The key, which comes last, is the same for all.
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, __m512i key) {
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) a.v[i] = _mm512_ternarylogic_epi64(a.v[i], b.v[i], key, 0x96);
      return a;
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE __m512i operator()(int round, int word) const {
      return _mm512_set1_epi64(static_cast<int64_t>(table.key[2 * round + word]));
    }
  };

  template <int N>
  static FD_HOST_DEVICE Lane<N> everywhere(uint64_t x) {
    Lane<N> lane;
#pragma GCC unroll 8
    for (__m512i& v : lane.v) v = _mm512_set1_epi64(static_cast<int64_t>(x));
    return lane;
  }

  // High halves of the words of 64 N consecutive mask indices, 32 a register.
  template <int N>
  struct Halves {
    __m512i low[N], high[N];
  };

  template <int N>
  static FD_HOST_DEVICE Halves<N> halves(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group, uint64_t high) {
    PhiloxBlock<Lane<N>> b{{everywhere<N>(mask.step), everywhere<N>(mask.step >> 32), {}, everywhere<N>(high)}};
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) {
      // Groups 0 to 3 in the even lanes and 4 to 7 in the odd ones: unpacking then leaves each four in their order.
      const __m512i from = _mm512_set1_epi64(static_cast<int64_t>(group) + w * (kBatch / kGroup));
      b.word[2].v[w] = _mm512_add_epi64(from, _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0));
    }
    b = philox4x32_10(b, Key{keys});
    Halves<N> h;
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) {
      // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
      const __m512i first = _mm512_mask_shuffle_epi32(b.word[0].v[w], 0xaaaa, b.word[1].v[w], _MM_PERM_CCAA);
      const __m512i last = _mm512_mask_shuffle_epi32(b.word[2].v[w], 0xaaaa, b.word[3].v[w], _MM_PERM_CCAA);
      h.low[w] = _mm512_unpacklo_epi64(first, last);
      h.high[w] = _mm512_unpackhi_epi64(first, last);
    }
    return h;
  }

  template <int N>
  static FD_HOST_DEVICE void store_halves(const Halves<N>& h, uint16_t* p) {
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) {
      _mm512_storeu_si512(p + kBatch * w, h.low[w]);
      _mm512_storeu_si512(p + kBatch * w + kBatch / 2, h.high[w]);
    }
  }

  static FD_HOST_DEVICE __m512i everywhere16(uint32_t x) { return _mm512_set1_epi16(static_cast<int16_t>(x)); }

  template <int kComparison, int N>
  static FD_HOST_DEVICE Words<N> compared(const Halves<N>& h, uint32_t threshold) {
    const __m512i t = everywhere16(threshold);
    Words<N> words;
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) {
      words.word[w] = _mm512_kunpackd(_mm512_cmp_epu16_mask(h.high[w], t, kComparison),
                                      _mm512_cmp_epu16_mask(h.low[w], t, kComparison));
    }
    return words;
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> at_least(const Halves<N>& h, uint32_t threshold) {
    return compared<_MM_CMPINT_NLT>(h, threshold);
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> equal(const Halves<N>& h, uint32_t threshold) {
    return compared<_MM_CMPINT_EQ>(h, threshold);
  }
  template <int N>
  static FD_HOST_DEVICE bool any_equal(const Halves<N>& h, uint32_t threshold) {
    const __m512i t = everywhere16(threshold);
    __mmask32 any = _mm512_cmpeq_epi16_mask(h.low[0], t);
#pragma GCC unroll 8
    for (int w = 0; w < N; ++w) {
      if (w > 0) any = _kor_mask32(any, _mm512_cmpeq_epi16_mask(h.low[w], t));
      any = _kor_mask32(any, _mm512_cmpeq_epi16_mask(h.high[w], t));
    }
    return !_kortestz_mask32_u8(any, any);
  }

  // A byte a bit, 0 or 1.
  static FD_HOST_DEVICE void store_truths(uint64_t bits, uint8_t* p) {
    _mm512_storeu_si512(p, _mm512_maskz_set1_epi8(bits, 1));
  }

  static FD_HOST_DEVICE __m512 multiply_add(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
  static FD_HOST_DEVICE __m512d multiply_add(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
  static FD_HOST_DEVICE __m512 scale(__m512 m, __m512 n) { return _mm512_scalef_ps(m, n); }
  static FD_HOST_DEVICE __m512d scale(__m512d m, __m512d n) { return _mm512_scalef_pd(m, n); }

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

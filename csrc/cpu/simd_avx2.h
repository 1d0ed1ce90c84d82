// AVX2 with F16C: four Philox lanes of 64 bits in a register, and two registers side by side, eight groups: one chain
// of dependent multiplications alone would leave the multipliers idle most of the time.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx2 : VectorKeep<32> {
  static constexpr int kBytes = 32;
  static constexpr bool kUnrolled = true;  // whether loops of short pipelines are
  static constexpr int kWords = 1;

  struct Lane {
    __m256i v[2];
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
      const __m256i factor = _mm256_set1_epi64x(b);
      return {{_mm256_mul_epu32(a.v[0], factor), _mm256_mul_epu32(a.v[1], factor)}};
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) {
      return {{_mm256_srli_epi64(a.v[0], 32), _mm256_srli_epi64(a.v[1], 32)}};
    }
    // The key, which comes last, is the same for both.
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, __m256i key) {
      return {{_mm256_xor_si256(_mm256_xor_si256(a.v[0], b.v[0]), key),
               _mm256_xor_si256(_mm256_xor_si256(a.v[1], b.v[1]), key)}};
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE __m256i operator()(int round, int word) const {
      return _mm256_set1_epi64x(static_cast<int64_t>(table.key[2 * round + word]));
    }
  };

  static FD_HOST_DEVICE Lane everywhere(uint64_t x) {
    const __m256i v = _mm256_set1_epi64x(static_cast<int64_t>(x));
    return {{v, v}};
  }

  // High halves of the words of 64 consecutive mask indices: of the even and the odd groups of each four.
  struct Halves {
    __m256i even[2], odd[2];
  };

  static FD_HOST_DEVICE Halves halves(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group, uint64_t high) {
    const __m256i from = _mm256_set1_epi64x(static_cast<int64_t>(group));
    const Lane groups{
        {_mm256_add_epi64(from, _mm256_set_epi64x(3, 2, 1, 0)), _mm256_add_epi64(from, _mm256_set_epi64x(7, 6, 5, 4))}};
    const PhiloxBlock<Lane> b = philox4x32_10(
        PhiloxBlock<Lane>{{everywhere(mask.step), everywhere(mask.step >> 32), groups, everywhere(high)}}, Key{keys});
    Halves h;
    for (int i = 0; i < 2; ++i) {
      // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
      const __m256i first = _mm256_blend_epi32(b.word[0].v[i], _mm256_slli_epi64(b.word[1].v[i], 32), 0xaa);
      const __m256i last = _mm256_blend_epi32(b.word[2].v[i], _mm256_slli_epi64(b.word[3].v[i], 32), 0xaa);
      h.even[i] = _mm256_unpacklo_epi64(first, last);
      h.odd[i] = _mm256_unpackhi_epi64(first, last);
    }
    return h;
  }

  static FD_HOST_DEVICE void store_halves(const Halves& h, uint16_t* p) {
    for (int i = 0; i < 2; ++i, p += kBatch / 2) {
      __m256i* const to = reinterpret_cast<__m256i*>(p);
      _mm256_storeu_si256(to, _mm256_permute2x128_si256(h.even[i], h.odd[i], 0x20));
      _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(h.even[i], h.odd[i], 0x31));
    }
  }

  // A bit an element. Packing interleaves the 128-bit halves of both, which puts the groups into their order.
  template <class Compare>
  static FD_HOST_DEVICE uint64_t bits(const Halves& h, const Compare& compare) {
    const auto half = [&](int i) {
      const __m256i packed = _mm256_packs_epi16(compare(h.even[i]), compare(h.odd[i]));
      return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(packed)));
    };
    return half(1) << 32 | half(0);
  }
  static FD_HOST_DEVICE __m256i everywhere16(uint32_t x) { return _mm256_set1_epi16(static_cast<int16_t>(x)); }

  static FD_HOST_DEVICE void at_least(const Halves& h, uint32_t threshold, uint64_t (&keep)[kWords]) {
    const __m256i t = everywhere16(threshold);
    keep[0] = bits(h, [=](__m256i half) { return _mm256_cmpeq_epi16(_mm256_max_epu16(half, t), half); });
  }
  static FD_HOST_DEVICE void equal(const Halves& h, uint32_t threshold, uint64_t (&ties)[kWords]) {
    const __m256i t = everywhere16(threshold);
    ties[0] = bits(h, [=](__m256i half) { return _mm256_cmpeq_epi16(half, t); });
  }
  static FD_HOST_DEVICE bool any_equal(const Halves& h, uint32_t threshold) {
    const __m256i t = everywhere16(threshold);
    const __m256i even = _mm256_or_si256(_mm256_cmpeq_epi16(h.even[0], t), _mm256_cmpeq_epi16(h.even[1], t));
    const __m256i odd = _mm256_or_si256(_mm256_cmpeq_epi16(h.odd[0], t), _mm256_cmpeq_epi16(h.odd[1], t));
    const __m256i any = _mm256_or_si256(even, odd);
    return !_mm256_testz_si256(any, any);
  }

  // Packing interleaves the 128-bit halves, and the permutation puts them back.
  template <class Values>
  static FD_HOST_DEVICE void store_bfloat16(const Values& first, const Values& second, BFloat16* p) {
    const __m256i low = (__m256i)(round_to_bfloat16(first) >> 16), high = (__m256i)(round_to_bfloat16(second) >> 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
  }

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

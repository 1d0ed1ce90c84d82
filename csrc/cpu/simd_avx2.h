// AVX2 with F16C: four Philox lanes of 64 bits in a register, eight groups in two.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx2 {
  static constexpr int kBytes = 32;

  struct Lane {
    __m256i v;
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
      return {_mm256_mul_epu32(a.v, _mm256_set1_epi64x(b))};
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) { return {_mm256_srli_epi64(a.v, 32)}; }
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, Lane c) {
      return {_mm256_xor_si256(_mm256_xor_si256(a.v, b.v), c.v)};
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE Lane operator()(int round, int word) const {
      return {_mm256_set1_epi64x(static_cast<int64_t>(table.key[2 * round + word]))};
    }
  };

  // 32 elements of four groups, one byte each: 0xff where the high half is at least (ties: equals) the threshold.
  static FD_HOST_DEVICE uint32_t keep_half_batch(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group,
                                                 uint32_t& ties) {
    const __m256i groups =
        _mm256_add_epi64(_mm256_set1_epi64x(static_cast<int64_t>(group)), _mm256_set_epi64x(3, 2, 1, 0));
    const PhiloxBlock<Lane> b =
        philox4x32_10(PhiloxBlock<Lane>{{{_mm256_set1_epi64x(static_cast<int64_t>(mask.step))},
                                         {_mm256_set1_epi64x(static_cast<int64_t>(mask.step >> 32))},
                                         {groups},
                                         {_mm256_srli_epi64(groups, 32)}}},
                      Key{keys});
    // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
    const __m256i first = _mm256_blend_epi32(b.word[0].v, _mm256_slli_epi64(b.word[1].v, 32), 0xaa);
    const __m256i last = _mm256_blend_epi32(b.word[2].v, _mm256_slli_epi64(b.word[3].v, 32), 0xaa);
    const __m256i even = _mm256_unpacklo_epi64(first, last), odd = _mm256_unpackhi_epi64(first, last);
    const __m256i threshold = _mm256_set1_epi16(static_cast<int16_t>(mask.high_threshold()));
    const auto at_least = [&](__m256i h) { return _mm256_cmpeq_epi16(_mm256_max_epu16(h, threshold), h); };
    const auto equal = [&](__m256i h) { return _mm256_cmpeq_epi16(h, threshold); };
    // Packing interleaves the 128-bit halves of `even` and `odd`, which puts the groups into their order.
    ties = static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(equal(even), equal(odd))));
    return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_packs_epi16(at_least(even), at_least(odd))));
  }

  static FD_HOST_DEVICE uint64_t keep_batch(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group,
                                            uint64_t& ties) {
    uint32_t ties_low, ties_high;
    const uint64_t low = keep_half_batch(mask, keys, group, ties_low);
    const uint64_t high = keep_half_batch(mask, keys, group + 4, ties_high);
    ties = static_cast<uint64_t>(ties_high) << 32 | ties_low;
    return high << 32 | low;
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

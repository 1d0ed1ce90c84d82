// AVX-512 (F, BW, DQ, VL): eight Philox lanes of 64 bits in a register, so one register a word and 64 elements a block.
#pragma once

#include "simd.h"

namespace fused_dropout {

struct Avx512 {
  static constexpr int kBytes = 64;

  struct Lane {
    __m512i v;
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
      return {_mm512_mul_epu32(a.v, _mm512_set1_epi64(b))};
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) { return {_mm512_srli_epi64(a.v, 32)}; }
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, Lane c) { return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)}; }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE Lane operator()(int round, int word) const {
      return {_mm512_set1_epi64(static_cast<int64_t>(table.key[2 * round + word]))};
    }
  };

  static FD_HOST_DEVICE uint64_t keep_batch(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group,
                                            uint64_t& ties) {
    // Groups 0 to 3 in the even lanes and 4 to 7 in the odd ones: unpacking then leaves each four in their order.
    const __m512i groups =
        _mm512_add_epi64(_mm512_set1_epi64(static_cast<int64_t>(group)), _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0));
    const PhiloxBlock<Lane> b =
        philox4x32_10(PhiloxBlock<Lane>{{{_mm512_set1_epi64(static_cast<int64_t>(mask.step))},
                                         {_mm512_set1_epi64(static_cast<int64_t>(mask.step >> 32))},
                                         {groups},
                                         {_mm512_srli_epi64(groups, 32)}}},
                      Key{keys});
    // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
    const __m512i first = _mm512_mask_shuffle_epi32(b.word[0].v, 0xaaaa, b.word[1].v, _MM_PERM_CCAA);
    const __m512i last = _mm512_mask_shuffle_epi32(b.word[2].v, 0xaaaa, b.word[3].v, _MM_PERM_CCAA);
    const __m512i low = _mm512_unpacklo_epi64(first, last), high = _mm512_unpackhi_epi64(first, last);
    const __m512i threshold = _mm512_set1_epi16(static_cast<int16_t>(mask.high_threshold()));
    ties =
        static_cast<uint64_t>(_mm512_cmpeq_epi16_mask(high, threshold)) << 32 | _mm512_cmpeq_epi16_mask(low, threshold);
    return static_cast<uint64_t>(_mm512_cmpge_epu16_mask(high, threshold)) << 32 |
           _mm512_cmpge_epu16_mask(low, threshold);
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

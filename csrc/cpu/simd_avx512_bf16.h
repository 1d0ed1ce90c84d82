// AVX-512 with BF16 (Zen 4, Sapphire Rapids and later).
#pragma once

#include "simd_avx512.h"

namespace fused_dropout {

// The same with the processor's own conversion to bfloat16. It flushes subnormals, which nothing here may do: a pair of
// registers that holds one takes the long way.
struct Avx512Bf16 : Avx512 {
  template <class Values>
  static FD_HOST_DEVICE void store_bfloat16(const Values& first, const Values& second, BFloat16* p) {
    constexpr int kSubnormal = 0x20;
    if (__builtin_expect(
            _kortestz_mask16_u8(_mm512_fpclass_ps_mask(first, kSubnormal), _mm512_fpclass_ps_mask(second, kSubnormal)),
            1)) {
      _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(second, first));
    } else {
      Avx512::store_bfloat16(first, second, p);
    }
  }
};

}  // namespace fused_dropout

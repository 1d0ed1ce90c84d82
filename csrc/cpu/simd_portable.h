// Any machine: 16-byte vectors, which SSE2 and NEON have, two Philox lanes of 64 bits in each.
#pragma once

#if defined(__ARM_NEON)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "simd.h"

namespace fused_dropout {

struct Portable : VectorKeep<16> {
  static constexpr int kBytes = 16;
  static constexpr bool kUnrolled = false;  // whether loops of short pipelines are
  static constexpr bool kScales = false;    // whether there is an instruction for m 2^n
  static constexpr int kWords = 1, kLinearWords = 1;

  using Floats = typename VectorOf<float, 16>::type;
  using Doubles = typename VectorOf<double, 16>::type;
  using Two = typename VectorOf<uint64_t, 16>::type;
  using Group = typename VectorOf<uint16_t, 16>::type;  // the halves of a group

  static FD_HOST_DEVICE Two multiply_low32(Two a, uint32_t b) {
#if defined(__ARM_NEON)
    return reinterpret_cast<Two>(vmull_n_u32(vmovn_u64(reinterpret_cast<uint64x2_t>(a)), b));
#elif defined(__SSE2__)
    return reinterpret_cast<Two>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), _mm_set1_epi64x(b)));
#else
    return (a & 0xffffffffu) * b;
#endif
  }

  static constexpr int kRegisters = kBatch / kGroup / 2;  // of a batch
  struct Lane {
    Two v[kRegisters];
    friend FD_HOST_DEVICE Lane multiply_low32(Lane a, uint32_t b) {
      for (Two& v : a.v) v = Portable::multiply_low32(v, b);
      return a;
    }
    friend FD_HOST_DEVICE Lane shift_right_32(Lane a) {
      for (Two& v : a.v) v >>= 32;
      return a;
    }
    friend FD_HOST_DEVICE Lane xor3(Lane a, Lane b, uint64_t key) {
      for (int i = 0; i < kRegisters; ++i) a.v[i] ^= b.v[i] ^ key;
      return a;
    }
  };

  struct Key {
    const PhiloxKeyTable& table;
    FD_HOST_DEVICE uint64_t operator()(int round, int word) const { return table.key[2 * round + word]; }
  };

  static FD_HOST_DEVICE Lane everywhere(uint64_t x) {
    Lane lane;
    for (Two& v : lane.v) v = x - Two{};
    return lane;
  }

  // High halves of the words of 64 N consecutive mask indices, a group a vector. Out of line: it is long, and a call is
  // nothing beside it.
  template <int N>
  struct Halves {
    Group group[N * kBatch / kGroup];
  };
  template <int N>
  static __attribute__((noinline)) Halves<N> halves(const Mask& mask, const PhiloxKeyTable& keys, uint64_t group,
                                                    uint64_t high) {
    Halves<N> h;
    for (int at = 0; at < N * kBatch / kGroup; at += 2 * kRegisters) {
      PhiloxBlock<Lane> b{{everywhere(mask.step), everywhere(mask.step >> 32), {}, everywhere(high)}};
      for (int i = 0; i < kRegisters; ++i) b.word[2].v[i] = group + at + 2 * i + Two{0, 1};
      b = philox4x32_10(b, Key{keys});
      for (int i = 0; i < kRegisters; ++i) {
        // Words 0 and 1 of a group are its elements 0 to 3, words 2 and 3 its elements 4 to 7.
        const Two first = (b.word[0].v[i] & 0xffffffffu) | b.word[1].v[i] << 32;
        const Two last = (b.word[2].v[i] & 0xffffffffu) | b.word[3].v[i] << 32;
        h.group[at + 2 * i] = bit_cast<Group>(Two{first[0], last[0]});
        h.group[at + 2 * i + 1] = bit_cast<Group>(Two{first[1], last[1]});
      }
    }
    return h;
  }

  template <int N>
  static FD_HOST_DEVICE void store_halves(const Halves<N>& h, uint16_t* p) {
    std::memcpy(p, h.group, sizeof(h.group));
  }

  // A bit an element: each lane has its own, and the sum of the lanes has all of them.
  template <int N, class Compare>
  static FD_HOST_DEVICE Words<N> bits(const Halves<N>& h, const Compare& compare) {
    constexpr Group lane_bit{1, 2, 4, 8, 16, 32, 64, 128};
    Words<N> words{};
    for (int i = 0; i < N * kBatch / kGroup; ++i) {
      const Group own = bit_cast<Group>(compare(h.group[i])) & lane_bit;
      uint64_t fours[2];
      store_bytes(fours, own);
      const uint64_t octet = (fours[0] | fours[1]) * 0x0001000100010001u >> 48;
      words.word[i * kGroup / kBatch] |= octet << i * kGroup % kBatch;
    }
    return words;
  }
  static FD_HOST_DEVICE Group everywhere16(uint32_t x) { return static_cast<uint16_t>(x) - Group{}; }

  template <int N>
  static FD_HOST_DEVICE Words<N> at_least(const Halves<N>& h, uint32_t threshold) {
    return bits(h, [t = everywhere16(threshold)](Group half) { return half >= t; });
  }
  template <int N>
  static FD_HOST_DEVICE Words<N> equal(const Halves<N>& h, uint32_t threshold) {
    return bits(h, [t = everywhere16(threshold)](Group half) { return half == t; });
  }
  template <int N>
  static FD_HOST_DEVICE bool any_equal(const Halves<N>& h, uint32_t threshold) {
    const Group t = everywhere16(threshold);
    Group any{};
    for (const Group& half : h.group) any |= bit_cast<Group>(half == t);
    uint64_t fours[2];
    store_bytes(fours, any);
    return (fours[0] | fours[1]) != 0;
  }

  // A byte a bit, 0 or 1.
  static FD_HOST_DEVICE void store_truths(uint64_t bits, uint8_t* p) {
    for (int i = 0; i < kBatch; ++i) p[i] = static_cast<uint8_t>(bits >> i & 1);
  }

#if defined(__aarch64__)
  static FD_HOST_DEVICE Floats multiply_add(Floats a, Floats b, Floats c) {
    return reinterpret_cast<Floats>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a),
                                              reinterpret_cast<float32x4_t>(b)));
  }
#elif defined(__SSE2__) && !defined(__FMA__)
  // In double the product is exact, and the sum is, rounded again, right unless it lies halfway between two floats.
  static FD_HOST_DEVICE Floats multiply_add(Floats a, Floats b, Floats c) {
    const Doubles low = lower(a) * lower(b) + lower(c), high = upper(a) * upper(b) + upper(c);
    const __m128i ends = _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(low), _mm_castpd_ps(high), 0x88));
    const __m128i halfway = _mm_cmpeq_epi32(_mm_slli_epi32(ends, 4), _mm_setzero_si128());
    if (__builtin_expect(_mm_movemask_epi8(halfway) != 0, 0)) return rounded_once(a, b, c);
    return narrowed(low, high);
  }
  // To odd first, after which to round once more cannot err (Boldo and Melquiond, "Emulation of FMA and correctly
  // rounded sums", IEEE Trans. Comput. 57, 2008).
  static __attribute__((noinline)) Floats rounded_once(Floats a, Floats b, Floats c) {
    return narrowed(odd_sum(lower(a) * lower(b), lower(c)), odd_sum(upper(a) * upper(b), upper(c)));
  }
  static FD_HOST_DEVICE Doubles odd_sum(Doubles a, Doubles b) {
    using Bits = typename VectorOf<int64_t, 16>::type;
    const Doubles sum = a + b, back = sum - a, lost = (a - (sum - back)) + (b - back);
    const Bits inexact = (lost < 0) | (lost > 0), beyond = ((lost < 0) ^ (sum < 0)) & inexact;
    return bit_cast<Doubles>((bit_cast<Bits>(sum) + beyond) | (inexact & 1));
  }
  static FD_HOST_DEVICE Doubles lower(Floats a) { return _mm_cvtps_pd(a); }
  static FD_HOST_DEVICE Doubles upper(Floats a) { return _mm_cvtps_pd(_mm_movehl_ps(a, a)); }
  static FD_HOST_DEVICE Floats narrowed(Doubles low, Doubles high) {
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
  }
#else
  static FD_HOST_DEVICE Floats multiply_add(Floats a, Floats b, Floats c) {
    for (int i = 0; i < 4; ++i) c[i] = std::fma(a[i], b[i], c[i]);
    return c;
  }
#endif
  static FD_HOST_DEVICE Doubles multiply_add(Doubles a, Doubles b, Doubles c) {
    return Doubles{std::fma(a[0], b[0], c[0]), std::fma(a[1], b[1], c[1])};
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

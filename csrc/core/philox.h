// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
//
// One template serves every machine: `Lane` holds a 32-bit word in the low half of a 64-bit lane (a scalar here and on
// the GPU, a vector of lanes in csrc/cpu/simd_*.h). The upper half may hold anything, since the multiply reads only the
// low one: two multiplies, two shifts and two three-way xors make a round.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9u, kPhiloxKeyStep1 = 0xBB67AE85u;

template <class Lane>
struct PhiloxBlock {
  Lane word[4];
};

// The scalar lane. A vector lane brings overloads of these three functions in its own namespace.
FD_HOST_DEVICE constexpr uint64_t multiply_low32(uint64_t a, uint32_t b) { return (a & 0xffffffffu) * b; }
FD_HOST_DEVICE constexpr uint64_t shift_right_32(uint64_t a) { return a >> 32; }
FD_HOST_DEVICE constexpr uint64_t xor3(uint64_t a, uint64_t b, uint64_t c) { return a ^ b ^ c; }

// The key of each round, computed as the rounds go by. `word` is 0 or 1.
struct PhiloxKey {
  uint64_t seed;
  FD_HOST_DEVICE constexpr uint64_t operator()(int round, int word) const {
    return static_cast<uint32_t>(static_cast<uint32_t>(seed >> (32 * word)) +
                                 static_cast<uint32_t>(round) * (word ? kPhiloxKeyStep1 : kPhiloxKeyStep0));
  }
};

// Only the low 32 bits of the returned words are meaningful.
template <class Lane, class Key>
FD_HOST_DEVICE constexpr PhiloxBlock<Lane> philox4x32_10(PhiloxBlock<Lane> c, const Key& key) {
#if defined(__CUDACC__)
#pragma unroll
#elif defined(__GNUC__)
#pragma GCC unroll 10
#endif
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const Lane product0 = multiply_low32(c.word[0], kPhiloxMultiplier0);
    const Lane product1 = multiply_low32(c.word[2], kPhiloxMultiplier1);
    c.word[0] = xor3(shift_right_32(product1), c.word[1], key(round, 0));
    c.word[1] = product1;
    c.word[2] = xor3(shift_right_32(product0), c.word[3], key(round, 1));
    c.word[3] = product0;
  }
  return c;
}

// The published vectors (Random123's kat_vectors), read here as documentation and checked by every compilation.
namespace philox_vectors {
constexpr bool gives(PhiloxBlock<uint64_t> counter, uint64_t key, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const PhiloxBlock<uint64_t> r = philox4x32_10(counter, PhiloxKey{key});
  return static_cast<uint32_t>(r.word[0]) == a && static_cast<uint32_t>(r.word[1]) == b &&
         static_cast<uint32_t>(r.word[2]) == c && static_cast<uint32_t>(r.word[3]) == d;
}
static_assert(gives({{0, 0, 0, 0}}, 0, 0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u), "counter 0, key 0");
static_assert(gives({{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}}, 0xffffffffffffffffu, 0x408f276du,
                    0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu),
              "all ones");
static_assert(gives({{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}}, 0x299f31d0a4093822u, 0xd16cfe09u,
                    0x94fdccebu, 0x5001e420u, 0x24126ea1u),
              "digits of pi");
}  // namespace philox_vectors

}  // namespace fused_dropout

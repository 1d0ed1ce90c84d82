// Not a generator. It takes the place of csrc/core/philox.h, so that a mask's word is any that the caller names: a
// block holds the upper half of the key's low word in all lanes, and at an odd step the lower half.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

template <class Lane>
struct PhiloxBlock {
  Lane word[4];
};

struct PhiloxKey {
  uint64_t seed;
};

FD_HOST_DEVICE constexpr PhiloxBlock<uint64_t> philox4x32_10(PhiloxBlock<uint64_t> counter, PhiloxKey key) {
  const uint64_t half = key.seed >> (counter.word[0] & 1 ? 0 : 16) & 0xffffu, both = half << 16 | half;
  return {{both, both, both, both}};
}

}  // namespace fused_dropout

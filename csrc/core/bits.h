// Bits in memory: bit i of word w is number 64 w + i.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

// The 64 bits from number `at` on. Reads the word behind them too, where `at` lies within a word.
FD_HOST_DEVICE uint64_t bits_at(const uint64_t* words, int64_t at) {
  const int skip = static_cast<int>(at % 64);
  const uint64_t* const word = words + at / 64;
  return skip == 0 ? word[0] : word[0] >> skip | word[1] << (64 - skip);
}

}  // namespace fused_dropout

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

// Each bit twice: bit i becomes bits 2 i and 2 i + 1.
FD_HOST_DEVICE uint64_t doubled(uint32_t bits) {
  uint64_t spread = bits;
  spread = (spread | spread << 16) & 0x0000ffff0000ffffu;
  spread = (spread | spread << 8) & 0x00ff00ff00ff00ffu;
  spread = (spread | spread << 4) & 0x0f0f0f0f0f0f0f0fu;
  spread = (spread | spread << 2) & 0x3333333333333333u;
  spread = (spread | spread << 1) & 0x5555555555555555u;
  return spread | spread << 1;
}

}  // namespace fused_dropout

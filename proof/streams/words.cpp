// Writes the 32-bit words of one call's mask indices, from 0 on, until nobody reads them any more: seed, offset.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "core/mask.h"

using namespace fused_dropout;

int main(int count, char** given) {
  if (count != 3) return 2;
  const uint64_t seed = std::strtoull(given[1], nullptr, 10), step = std::strtoull(given[2], nullptr, 10) >> 2;
  std::vector<uint32_t> words(1 << 14);
  for (uint64_t group = 0;;) {
    for (size_t i = 0; i < words.size(); i += kGroup, ++group) {
      const PhiloxBlock<uint64_t> high = mask_block(seed, step, group), low = mask_block(seed, step + 1, group);
      for (int lane = 0; lane < kGroup; ++lane) words[i + lane] = half(high, lane) << 16 | half(low, lane);
    }
    if (std::fwrite(words.data(), sizeof(uint32_t), words.size(), stdout) != words.size()) return 0;
  }
}

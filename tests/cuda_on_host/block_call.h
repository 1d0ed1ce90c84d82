// A call of DropBlock's masks from plain arrays. Whoever includes it has included csrc/core/block.h.
#pragma once

#include <cstring>

namespace fused_dropout {

// `map` holds the numbers of a BlockMap in their order.
inline BlockArgs block_args(const int64_t* map, uint64_t seed, uint64_t offset, double p, uint64_t* seed_bits,
                            uint64_t* keep_bits, int64_t* kept) {
  BlockArgs args{{}, {nullptr, nullptr, seed, offset}, {nullptr, Probability::of(p)}, seed_bits, keep_bits, kept};
  static_assert(sizeof(BlockMap) == 13 * sizeof(int64_t), "13 numbers");
  std::memcpy(&args.map, map, sizeof(BlockMap));
  return args;
}

}  // namespace fused_dropout

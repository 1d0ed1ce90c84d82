// The masks of DropBlock on the CPU, a plane at a time.
#pragma once

#include <vector>

#include "../core/block.h"
#include "decisions.h"

namespace fused_dropout {

// Makes the planes [begin, end) and returns how many of their elements are kept.
template <class Isa>
int64_t block_masks(const BlockArgs& args, int64_t begin, int64_t end) {
  const BlockMap& map = args.map;
  KeepDecisions<KeepMaker<Isa>> decisions{KeepMaker<Isa>(Mask(args.state.load(), args.p.load()))};
  std::vector<uint64_t> dropped(static_cast<size_t>(map.seed_words()) + 1);
  int64_t kept = 0;
  for (int64_t plane = begin; plane < end; ++plane) {
    for (int64_t w = 0; w < map.seed_words(); ++w) {
      uint64_t keep = 0;
      decisions.put(keep, 0, map.first_seed(plane) + static_cast<uint64_t>(w) * kBatch, 1, kBatch);
      dropped[static_cast<size_t>(w)] = ~keep;
    }
    for (int64_t w = 0; w < map.words(); ++w) {
      const uint64_t low = map.kept_half(dropped.data(), 2 * w), high = map.kept_half(dropped.data(), 2 * w + 1);
      args.keep_bits[plane * map.words() + w] = high << 32 | low;
      kept += __builtin_popcountll(high << 32 | low);
    }
  }
  return kept;
}

}  // namespace fused_dropout

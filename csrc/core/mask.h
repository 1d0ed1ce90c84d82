// Element -> mask index -> word -> keep: the mask contract, RNG version 1.
//
// A mask is a pure function of (seed, offset, p, mask index). Eight consecutive mask indices are a group; a Philox
// block gives a group the high 16 bits of its eight words. The low 16 come from the next block and matter only where
// the high half equals the threshold's, once in 65,536 elements: they are computed there and nowhere else.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "philox.h"
#include "probability.h"

namespace fused_dropout {

constexpr int kRngVersion = 1;
constexpr int kGroup = 8;  // elements a Philox block

// The random part of a call: 16 bytes. Of `offset` the low two bits are ignored.
struct State {
  uint64_t seed, offset;
};

// Where a state comes from: by value (null pointers), from memory, or, for a CUDA generator under graph capture, memory
// plus a distance. Read where the kernel runs, so that a replayed graph sees what is there then.
struct StateSource {
  const int64_t* seed_ptr = nullptr;
  const int64_t* offset_ptr = nullptr;
  uint64_t seed = 0;
  uint64_t offset = 0;  // added to what offset_ptr points to

  FD_HOST_DEVICE State load() const {
    return {seed_ptr ? static_cast<uint64_t>(*seed_ptr) : seed,
            (offset_ptr ? static_cast<uint64_t>(*offset_ptr) : 0) + offset};
  }
};

// The same for p: by value, or a double in memory that the host never reads.
struct ProbabilitySource {
  const double* p_ptr = nullptr;
  Probability value{0};

  FD_HOST_DEVICE Probability load() const { return p_ptr ? Probability::of(*p_ptr) : value; }
};

// The block that holds the high halves of a group's words; at step + 1, their low halves.
FD_HOST_DEVICE constexpr PhiloxBlock<uint64_t> mask_block(uint64_t seed, uint64_t step, uint64_t group) {
  return philox4x32_10(PhiloxBlock<uint64_t>{{step & 0xffffffffu, step >> 32, group & 0xffffffffu, group >> 32}},
                       PhiloxKey{seed});
}

// A lane's 16 bits. Written as selections, since a run-time index would put the block into a GPU's local memory.
FD_HOST_DEVICE constexpr uint32_t half(const PhiloxBlock<uint64_t>& b, int lane) {
  const uint64_t word = lane & 4 ? (lane & 2 ? b.word[3] : b.word[2]) : (lane & 2 ? b.word[1] : b.word[0]);
  return static_cast<uint32_t>(word) >> (16 * (lane & 1)) & 0xffffu;
}

// Decides the lanes (bits of `ties`) whose high half equals the threshold's, by their low halves; returns those kept.
FD_COLD uint32_t keep_of_ties(uint64_t seed, uint64_t step, uint64_t group, uint32_t low_threshold, uint32_t ties) {
  const PhiloxBlock<uint64_t> low = mask_block(seed, step + 1, group);
  uint32_t keep = 0;
  for (int lane = 0; lane < kGroup; ++lane) keep |= static_cast<uint32_t>(half(low, lane) >= low_threshold) << lane;
  return keep & ties;
}

struct Mask {
  uint64_t seed;
  uint64_t step;  // offset / 4: 62 bits, so that step + 1 does not wrap
  Probability p;

  FD_HOST_DEVICE constexpr Mask(State state, Probability p) : seed(state.seed), step(state.offset >> 2), p(p) {}

  // All 32 bits of a mask index's word.
  FD_HOST_DEVICE uint32_t word(uint64_t mask_index) const {
    const uint64_t group = mask_index / kGroup;
    const int lane = static_cast<int>(mask_index % kGroup);
    return half(mask_block(seed, step, group), lane) << 16 | half(mask_block(seed, step + 1, group), lane);
  }

  FD_HOST_DEVICE constexpr uint32_t high_threshold() const { return static_cast<uint32_t>(p.drop_below >> 16); }
  FD_HOST_DEVICE constexpr uint32_t low_threshold() const { return static_cast<uint32_t>(p.drop_below & 0xffff); }

  // Corrects `keep`, made from the high halves alone, where they are equal to the threshold's.
  FD_HOST_DEVICE uint32_t resolve(uint64_t group, uint32_t keep, uint32_t ties) const {
    if (ties == 0 || low_threshold() == 0) return keep;
    return (keep & ~ties) | keep_of_ties(seed, step, group, low_threshold(), ties);
  }

  FD_HOST_DEVICE bool keep(uint64_t mask_index) const {
    const uint64_t group = mask_index / kGroup;
    const int lane = static_cast<int>(mask_index % kGroup);
    const uint32_t high = half(mask_block(seed, step, group), lane);
    const uint32_t keep = high >= high_threshold(), tie = high == high_threshold();
    return resolve(group, keep << lane, tie << lane) != 0;
  }

  // Bit i tells whether mask index 8 * group + i is kept.
  FD_HOST_DEVICE uint32_t keep_group(uint64_t group) const {
    group &= (uint64_t{1} << 61) - 1;  // a mask index wraps at 2^64, and the group behind the last one is the first
    const PhiloxBlock<uint64_t> high = mask_block(seed, step, group);
    uint32_t keep = 0, ties = 0;
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int lane = 0; lane < kGroup; ++lane) {
      const uint32_t h = half(high, lane);
      keep |= static_cast<uint32_t>(h >= high_threshold()) << lane;
      ties |= static_cast<uint32_t>(h == high_threshold()) << lane;
    }
    return resolve(group, keep, ties);
  }
};

}  // namespace fused_dropout

// Element -> mask index -> word -> keep: the mask contract, RNG version 1.
//
// A mask is a pure function of (seed, offset, p, mask index). Eight consecutive mask indices are a group; a Philox block
// gives a group the high 16 bits of its eight words. The low 16 come from the next block and matter only where the high
// half equals the threshold's, once in 65,536 elements: they are computed there and nowhere else.
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

struct Mask {
  uint64_t seed;
  uint64_t step;  // offset / 4: 62 bits, so that step + 1 does not wrap
  Probability p;

  FD_HOST_DEVICE constexpr Mask(State state, Probability p) : seed(state.seed), step(state.offset >> 2), p(p) {}

  FD_HOST_DEVICE constexpr uint32_t high_threshold() const { return static_cast<uint32_t>(p.drop_below >> 16); }
  FD_HOST_DEVICE constexpr uint32_t low_threshold() const { return static_cast<uint32_t>(p.drop_below & 0xffff); }

  // The block that holds the high halves of a group's words, or (low = 1) the low halves.
  FD_HOST_DEVICE constexpr PhiloxBlock<uint64_t> block(uint64_t group, int low = 0) const {
    const uint64_t s = step + static_cast<uint64_t>(low);
    return philox4x32_10(PhiloxBlock<uint64_t>{{s & 0xffffffffu, s >> 32, group & 0xffffffffu, group >> 32}},
                         PhiloxKey{seed});
  }

  FD_HOST_DEVICE static constexpr uint32_t half(const PhiloxBlock<uint64_t>& b, int lane) {
    return static_cast<uint32_t>(b.word[lane >> 1] >> (16 * (lane & 1))) & 0xffffu;
  }

  // Decides an element whose high half equals the threshold's.
  FD_HOST_DEVICE constexpr bool keep_on_tie(uint64_t group, int lane) const {
    return half(block(group, 1), lane) >= low_threshold();
  }

  FD_HOST_DEVICE constexpr bool keep(uint64_t mask_index) const {
    const uint64_t group = mask_index / kGroup;
    const int lane = static_cast<int>(mask_index % kGroup);
    const uint32_t high = half(block(group), lane);
    if (high != high_threshold() || low_threshold() == 0) return high >= high_threshold();
    return keep_on_tie(group, lane);
  }

  // Bit i tells whether mask index 8 * group + i is kept.
  FD_HOST_DEVICE constexpr uint32_t keep_group(uint64_t group) const {
    const PhiloxBlock<uint64_t> high = block(group);
    uint32_t keep = 0, ties = 0;
#if defined(__CUDA_ARCH__)
#pragma unroll
#endif
    for (int lane = 0; lane < kGroup; ++lane) {
      const uint32_t h = half(high, lane);
      keep |= static_cast<uint32_t>(h >= high_threshold()) << lane;
      ties |= static_cast<uint32_t>(h == high_threshold()) << lane;
    }
    if (ties == 0 || low_threshold() == 0) return keep;
    const PhiloxBlock<uint64_t> low = block(group, 1);
    for (int lane = 0; lane < kGroup; ++lane) {
      if ((ties >> lane & 1) && half(low, lane) < low_threshold()) keep &= ~(1u << lane);
    }
    return keep;
  }
};

}  // namespace fused_dropout

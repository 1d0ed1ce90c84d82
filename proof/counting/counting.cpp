// How many of the 2^32 words a mask keeps, counted with the decision of csrc/core/mask.h itself.
#include "mask.h"

using namespace fused_dropout;

namespace {

// Both ways to decide about a word; they have to agree in all eight lanes.
bool keeps(uint32_t word, Probability p, bool& agree) {
  const Mask mask({word, 0}, p);
  const bool one = mask.keep(5);
  const uint32_t group = mask.keep_group(7);
  agree = agree && group == (one ? 0xffu : 0u) && mask.word(5) == word;
  return one;
}

}  // namespace

// All words, or -1 where two decisions differ.
extern "C" int64_t count_all(double p) {
  const Probability probability = Probability::of(p);
  int64_t kept = 0;
  bool agree = true;
  for (uint64_t word = 0; word >> 32 == 0; ++word) kept += keeps(static_cast<uint32_t>(word), probability, agree);
  return agree ? kept : -1;
}

// The same by halves: where the upper half differs from the threshold's, the lower one must not matter, which is tried
// for `tries` of them, the threshold's own and its neighbours among these; where it is equal, all are counted.
extern "C" int64_t count_by_halves(double p, int tries) {
  const Probability probability = Probability::of(p);
  const uint32_t threshold = static_cast<uint32_t>(probability.drop_below);
  int64_t kept = 0;
  bool agree = true;
  for (uint32_t high = 0; high < 0x10000u; ++high) {
    const bool first = keeps(high << 16, probability, agree);
    if (high == threshold >> 16) {
      for (uint32_t low = 0; low < 0x10000u; ++low) kept += keeps(high << 16 | low, probability, agree);
      continue;
    }
    for (int k = 0; k < tries; ++k) {
      const uint32_t low = k < 3 ? threshold + static_cast<uint32_t>(k) - 1 : 0xffffu * static_cast<uint32_t>(k - 2);
      agree = agree && keeps(high << 16 | (low & 0xffffu), probability, agree) == first;
    }
    kept += first ? 0x10000 : 0;
  }
  return agree ? kept : -1;
}

extern "C" double scale_of(double p) { return Probability::of(p).scale(); }

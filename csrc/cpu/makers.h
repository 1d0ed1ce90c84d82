// What decides about the elements, made for many consecutive mask indices at once: keep bits, or normal numbers.
//
// A maker is cheap to copy, and `make` gives several batches of 64 decisions: Isa::kWords of them where a few are
// wanted, kLinearWords in a long loop, as many as fill the processor's pipelines, and in tiles what is next to that.
// `high` is group >> 32, the same for all of them: as an argument of its own, what follows from it alone (a tenth of
// the generator) is computed once, outside of the caller's loop.
#pragma once

#include "../core/bits.h"
#include "../core/elementwise.h"
#include "../core/normal.h"
#include "simd.h"

namespace fused_dropout {

// No carry from the low into the high half of a counter's 64-bit group, from `group` on for so many elements.
FD_HOST_DEVICE bool same_high_half(uint64_t group, int64_t elements) {
  return (group ^ (group + static_cast<uint64_t>(elements) / kGroup)) >> 32 == 0;
}

// Bit i of word w is the decision about mask index 8 * group + 64 * w + i.
template <class Isa>
class KeepMaker {
 public:
  using Batch = uint64_t;
  static constexpr int kLinearWords = Isa::kLinearWords;
  static constexpr int kMade = Isa::kWords * kBatch;  // elements

  FD_HOST_DEVICE explicit KeepMaker(const ElementwiseArgs& args) : KeepMaker(Mask(args.state.load(), args.p.load())) {}
  FD_HOST_DEVICE explicit KeepMaker(const Mask& mask) : mask_(mask), keys_(mask.seed) {}

  template <int N>
  FD_HOST_DEVICE void make(uint64_t group, uint64_t high, Batch (&keep)[N]) const {
    const auto halves = Isa::template halves<N>(mask_, keys_, group, high);
    Words<N> words = Isa::at_least(halves, mask_.high_threshold());
    const bool ties = Isa::any_equal(halves, mask_.high_threshold()) && mask_.low_threshold() != 0;
    if (__builtin_expect(ties || mask_.p.keeps_none(), 0)) words = resolve(group, words);
    for (int w = 0; w < N; ++w) keep[w] = words.word[w];
  }

  // Where the high half changes on the way.
  template <int N>
  __attribute__((noinline)) void make_one_by_one(uint64_t group, Batch (&keep)[N]) const {
    for (int octet = 0; octet < N * kBatch / kGroup; ++octet) {
      put(keep, octet, mask_.keep_group(group + static_cast<uint64_t>(octet)));
    }
  }

  FD_HOST_DEVICE bool one(uint64_t mask_index) const { return mask_.keep(mask_index); }

 private:
  // A word of keep bits in a thousand comes here: once more, for the bits that are equal to the threshold. By value, so
  // that the caller's words stay in registers.
  template <int N>
  __attribute__((noinline)) Words<N> resolve(uint64_t group, Words<N> keep) const {
    if (mask_.p.keeps_none()) return {};
    const Words<N> ties = Isa::equal(Isa::template halves<N>(mask_, keys_, group, group >> 32), mask_.high_threshold());
    for (int octet = 0; octet < N * kBatch / kGroup; ++octet) {
      const int word = octet * kGroup / kBatch, at = octet * kGroup % kBatch;
      put(keep.word, octet,
          mask_.resolve(group + static_cast<uint64_t>(octet), keep.word[word] >> at & 0xff,
                        ties.word[word] >> at & 0xff));
    }
    return keep;
  }

  static void put(uint64_t* keep, int octet, uint32_t bits) {
    uint64_t& word = keep[octet * kGroup / kBatch];
    const int at = octet * kGroup % kBatch;
    word = (word & ~(uint64_t{0xff} << at)) | static_cast<uint64_t>(bits) << at;
  }

  Mask mask_;
  PhiloxKeyTable keys_;
};

// Keep bits that lie in memory, with two words behind the last one.
template <class Isa>
class StoredMaker {
 public:
  using Batch = uint64_t;
  static constexpr int kLinearWords = Isa::kWords, kMade = Isa::kWords * kBatch;

  FD_HOST_DEVICE explicit StoredMaker(const ElementwiseArgs& args) : words_(args.keep_bits) {}

  template <int N>
  FD_HOST_DEVICE void make(uint64_t group, uint64_t, Batch (&keep)[N]) const {
    for (int w = 0; w < N; ++w) keep[w] = bits_at(words_, static_cast<int64_t>(group * kGroup) + w * kBatch);
  }
  template <int N>
  FD_HOST_DEVICE void make_one_by_one(uint64_t group, Batch (&keep)[N]) const {
    make(group, 0, keep);
  }
  FD_HOST_DEVICE bool one(uint64_t mask_index) const { return words_[mask_index / kBatch] >> mask_index % kBatch & 1; }

 private:
  const uint64_t* words_;
};

template <class C>
struct NormalBatch {
  alignas(64) C z[kBatch];
};

// Normal numbers: both halves of every word are needed, then two words make two numbers.
template <class Isa, class C>
class NormalMaker {
 public:
  using Batch = NormalBatch<C>;
  static constexpr int kLinearWords = Isa::kWords, kMade = Isa::kWords * kBatch;

  FD_HOST_DEVICE explicit NormalMaker(const ElementwiseArgs& args)
      : high_(args.state.load(), args.p.load()), low_(high_), keys_(high_.seed) {
    ++low_.step;
  }

  FD_HOST_DEVICE void make(uint64_t group, uint64_t high, Batch (&batches)[Isa::kWords]) const {
    alignas(64) uint16_t high_half[kMade], low_half[kMade];
    Isa::store_halves(Isa::template halves<Isa::kWords>(high_, keys_, group, high), high_half);
    Isa::store_halves(Isa::template halves<Isa::kWords>(low_, keys_, group, high), low_half);
    // Loops over scalars that the compiler turns into vectors. The halves of two neighbours lie in one word, from which
    // shifts and masks take them: no element is moved.
    uint32_t high_halves[kMade / 2], low_halves[kMade / 2];
    std::memcpy(high_halves, high_half, sizeof(high_half));
    std::memcpy(low_halves, low_half, sizeof(low_half));
    for (int w = 0; w < Isa::kWords; ++w) {
      alignas(64) C even[kBatch / 2], odd[kBatch / 2];
      for (int i = 0; i < kBatch / 2; ++i) {
        const uint32_t upper = high_halves[w * kBatch / 2 + i], lower = low_halves[w * kBatch / 2 + i];
        const NormalPair<C> pair = normal_pair<C>(upper << 16 | (lower & 0xffff), (upper & 0xffff0000u) | lower >> 16);
        even[i] = pair.even;
        odd[i] = pair.odd;
      }
      for (int i = 0; i < kBatch / 2; ++i) {
        batches[w].z[2 * i] = even[i];
        batches[w].z[2 * i + 1] = odd[i];
      }
    }
  }

  __attribute__((noinline)) void make_one_by_one(uint64_t group, Batch (&batches)[Isa::kWords]) const {
    for (int i = 0; i < kMade; ++i) {
      batches[i / kBatch].z[i % kBatch] = one(group * kGroup + static_cast<uint64_t>(i));
    }
  }

  // A mask index wraps at 2^64 by itself.
  __attribute__((noinline)) C one(uint64_t mask_index) const {
    const NormalPair<C> pair = normal_pair<C>(high_.word(mask_index & ~uint64_t{1}), high_.word(mask_index | 1));
    return mask_index & 1 ? pair.odd : pair.even;
  }

 private:
  Mask high_, low_;  // of the words' upper and lower 16 bits
  PhiloxKeyTable keys_;
};

}  // namespace fused_dropout

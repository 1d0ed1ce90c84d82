// Vectors of values, in the compilers' own vector extension: one source for every instruction set and for ARM.
//
// An instruction set is a struct that gives the width, the generator of keep bits and, where the machine has
// instructions for them, the conversions of float16. Everything is a template over it, so that no two translation units
// share a function. Included after the target pragma of elementwise_*.cpp.
#pragma once

#include <type_traits>

#include "../core/dtype.h"
#include "../core/mask.h"

namespace fused_dropout {

constexpr int kBatch = 64;  // elements: a word of keep bits

template <class T>
FD_HOST_DEVICE T load_bytes(const void* from) {
  T to;
  std::memcpy(&to, from, sizeof(T));
  return to;
}

template <class T>
FD_HOST_DEVICE void store_bytes(void* to, T from) {
  std::memcpy(to, &from, sizeof(T));
}

// A vector of elements in so many bytes.
template <class Element, int kBytes>
struct VectorOf {
  typedef Element type __attribute__((vector_size(kBytes)));
};

// Truth values as vectors of all ones and zeros, where the instruction set has no mask registers.
template <int kBytes>
struct VectorKeep {
  template <class C>
  using Integer = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  template <class C>
  using Keep = typename VectorOf<Integer<C>, kBytes>::type;

  // The lowest bits, one a lane.
  template <class C>
  static FD_HOST_DEVICE Keep<C> keep_of(uint64_t bits) {
    Keep<C> lane_bit;
    for (size_t i = 0; i < kBytes / sizeof(C); ++i) lane_bit[i] = Integer<C>{1} << i;
    return ((static_cast<Integer<C>>(bits) - Keep<C>{}) & lane_bit) != 0;
  }

  template <class Keep, class Values>
  static FD_HOST_DEVICE Values select(Keep keep, Values kept, Values dropped) {
    return keep ? kept : dropped;
  }
};

// float to bfloat16, to nearest even, in the upper half of each word. A nan is left alone: it comes from a bfloat16
// operand or an invalid operation, so its lower 16 bits are zero, and what rounding adds to them does not carry.
template <class Values>
FD_HOST_DEVICE auto round_to_bfloat16(Values v) {
  const auto u = bit_cast<typename VectorOf<uint32_t, sizeof(Values)>::type>(v);
  return u + 0x7fffu + ((u >> 16) & 1u);
}

// One register of C (float or double).
template <class Isa, class C>
struct Vec {
  static constexpr int kLanes = Isa::kBytes / static_cast<int>(sizeof(C));
  using Values = typename VectorOf<C, Isa::kBytes>::type;
  using Keep = typename Isa::template Keep<C>;

  Values v;

  FD_HOST_DEVICE Vec() = default;
  FD_HOST_DEVICE explicit Vec(Values values) : v(values) {}
  FD_HOST_DEVICE explicit Vec(C everywhere) : v(everywhere - Values{}) {}

  FD_HOST_DEVICE friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  FD_HOST_DEVICE friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  FD_HOST_DEVICE friend Vec select(Keep keep, Vec kept, Vec dropped) {
    return Vec(Isa::select(keep, kept.v, dropped.v));
  }

  // The lowest kLanes bits, one a lane.
  FD_HOST_DEVICE static Keep keep(uint64_t bits) { return Isa::template keep_of<C>(bits); }

  FD_HOST_DEVICE static Vec load(const C* p) { return Vec(load_bytes<Values>(p)); }
  FD_HOST_DEVICE void store(C* p) const { store_bytes(p, v); }

  // The narrower types, for C = float.
  using Words = typename VectorOf<uint32_t, Isa::kBytes>::type;
  using Halves = typename VectorOf<uint16_t, Isa::kBytes / 2>::type;
  using Bytes = typename VectorOf<uint8_t, Isa::kBytes / 4>::type;

  FD_HOST_DEVICE static Vec load(const BFloat16* p) {
    return Vec(bit_cast<Values>(__builtin_convertvector(load_bytes<Halves>(p), Words) << 16));
  }
  // Two registers, since narrowing them together takes a third of the instructions.
  FD_HOST_DEVICE static void store(Vec first, Vec second, BFloat16* p) { Isa::store_bfloat16(first.v, second.v, p); }

  template <class T>
  FD_HOST_DEVICE static void store(Vec first, Vec second, T* p) {
    first.store(p);
    second.store(p + kLanes);
  }

  FD_HOST_DEVICE static Vec load(const Half* p) { return Vec(Isa::template load_half<Values>(p)); }
  FD_HOST_DEVICE void store(Half* p) const { Isa::store_half(v, p); }

  FD_HOST_DEVICE void store(uint8_t* p) const {
    store_bytes(p, __builtin_convertvector(bit_cast<Words>(v != 0), Bytes) & 1);
  }
};

// The keys of the ten rounds, as a vector lane wants them: in memory, to be broadcast.
struct PhiloxKeyTable {
  uint64_t key[2 * kPhiloxRounds];

  FD_HOST_DEVICE explicit PhiloxKeyTable(uint64_t seed) {
    for (int i = 0; i < 2 * kPhiloxRounds; ++i) key[i] = PhiloxKey{seed}(i / 2, i % 2);
  }
};

// Keep bits of consecutive mask indices: Isa::kWords words of 64 at a time, as many as fill the processor's pipelines.
// The last ones are remembered: rows shorter than that, and rows that share their mask, find their bits there.
template <class Isa>
class KeepBits {
 public:
  static constexpr int kMade = Isa::kWords * kBatch;  // elements

  FD_HOST_DEVICE explicit KeepBits(const Mask& mask) : mask_(mask), keys_(mask.seed) {}

  // No carry from the low into the high half of a counter's 64-bit group, from `group` on for so many elements.
  static FD_HOST_DEVICE bool same_high_half(uint64_t group, int64_t elements) {
    return (group ^ (group + static_cast<uint64_t>(elements) / kGroup)) >> 32 == 0;
  }

  // Bit i of word w: mask index 8 * group + 64 * w + i. `high` is group >> 32, the same for all of them: as an argument
  // of its own, what follows from it alone (a tenth of the generator) is computed once, outside of the caller's loop.
  FD_HOST_DEVICE void make(uint64_t group, uint64_t high, uint64_t (&keep)[Isa::kWords]) const {
    const auto halves = Isa::halves(mask_, keys_, group, high);
    Isa::at_least(halves, mask_.high_threshold(), keep);
    if (__builtin_expect(Isa::any_equal(halves, mask_.high_threshold()) && mask_.low_threshold() != 0, 0)) {
      resolve(group, keep);
    }
    if (__builtin_expect(mask_.p.keeps_none(), 0)) std::memset(keep, 0, sizeof(keep));
  }

  // Bits from any mask index on; how many of the 64 are valid is in `count`.
  FD_HOST_DEVICE uint64_t from(uint64_t mask_index, int64_t& count) {
    if (!cached_ || mask_index - cached_from_ >= kMade) {
      cached_ = true;
      cached_from_ = mask_index & ~uint64_t{kGroup - 1};
      const uint64_t group = cached_from_ / kGroup;
      if (same_high_half(group, kMade)) {
        make(group, group >> 32, cached_bits_);
      } else {
        make_one_by_one(group, cached_bits_);
      }
    }
    const int skip = static_cast<int>(mask_index - cached_from_);
    count = kBatch - skip % kBatch;
    return cached_bits_[skip / kBatch] >> skip % kBatch;
  }

  // 64 valid bits from any mask index on.
  FD_HOST_DEVICE uint64_t all_from(uint64_t mask_index) {
    int64_t valid, rest;
    const uint64_t bits = from(mask_index, valid);
    if (valid == kBatch) return bits;
    return (bits & ((uint64_t{1} << valid) - 1)) | from(mask_index + static_cast<uint64_t>(valid), rest) << valid;
  }

  FD_HOST_DEVICE bool one(uint64_t mask_index) const { return mask_.keep(mask_index); }

 private:
  // A word of keep bits in a thousand comes here: once more, for the bits that are equal to the threshold.
  __attribute__((noinline)) void resolve(uint64_t group, uint64_t* keep) const {
    uint64_t ties[Isa::kWords];
    Isa::equal(Isa::halves(mask_, keys_, group, group >> 32), mask_.high_threshold(), ties);
    for (int octet = 0; octet < kMade / kGroup; ++octet) {
      const int word = octet * kGroup / kBatch, at = octet * kGroup % kBatch;
      put(keep, octet,
          mask_.resolve(group + static_cast<uint64_t>(octet), keep[word] >> at & 0xff, ties[word] >> at & 0xff));
    }
  }

  __attribute__((noinline)) void make_one_by_one(uint64_t group, uint64_t* keep) const {
    for (int octet = 0; octet < kMade / kGroup; ++octet) {
      put(keep, octet, mask_.keep_group(group + static_cast<uint64_t>(octet)));
    }
  }

  static void put(uint64_t* keep, int octet, uint32_t bits) {
    uint64_t& word = keep[octet * kGroup / kBatch];
    const int at = octet * kGroup % kBatch;
    word = (word & ~(uint64_t{0xff} << at)) | static_cast<uint64_t>(bits) << at;
  }

  Mask mask_;
  PhiloxKeyTable keys_;
  bool cached_ = false;
  uint64_t cached_from_ = 0, cached_bits_[Isa::kWords] = {};
};

}  // namespace fused_dropout

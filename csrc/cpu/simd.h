// Vectors of values, in the compilers' own vector extension: one source for every instruction set and for ARM.
//
// An instruction set is a struct that gives the width, the generator of keep bits and, where the machine has
// instructions for them, the conversions of float16. Everything is a template over it, so that no two translation units
// share a function. Included after the target pragma (target_begin.h).
#pragma once

#include <type_traits>

#include "../core/dtype.h"
#include "../core/mask.h"

namespace fused_dropout {

constexpr int kBatch = 64;  // elements whose keep bits one uint64_t holds

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

// One register of C (float or double).
template <class Isa, class C>
struct Vec {
  static constexpr int kLanes = Isa::kBytes / static_cast<int>(sizeof(C));
  using Integer = std::conditional_t<sizeof(C) == 4, int32_t, int64_t>;
  using Values = typename VectorOf<C, Isa::kBytes>::type;
  using Keep = typename VectorOf<Integer, Isa::kBytes>::type;  // all ones where kept

  Values v;

  FD_HOST_DEVICE Vec() = default;
  FD_HOST_DEVICE explicit Vec(Values values) : v(values) {}
  FD_HOST_DEVICE explicit Vec(C everywhere) : v(everywhere - Values{}) {}

  FD_HOST_DEVICE friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  FD_HOST_DEVICE friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  FD_HOST_DEVICE friend Vec select(Keep keep, Vec kept, Vec dropped) { return Vec(keep ? kept.v : dropped.v); }

  // The lowest kLanes bits, one a lane.
  FD_HOST_DEVICE static Keep keep(uint64_t bits) {
    Keep lane_bit;
    for (int i = 0; i < kLanes; ++i) lane_bit[i] = Integer{1} << i;
    return ((static_cast<Integer>(bits) - Keep{}) & lane_bit) != 0;
  }

  FD_HOST_DEVICE static Vec load(const C* p) { return Vec(load_bytes<Values>(p)); }
  FD_HOST_DEVICE void store(C* p) const { store_bytes(p, v); }

  // The narrower types, for C = float.
  using Words = typename VectorOf<uint32_t, Isa::kBytes>::type;
  using Halves = typename VectorOf<uint16_t, Isa::kBytes / 2>::type;
  using Bytes = typename VectorOf<uint8_t, Isa::kBytes / 4>::type;

  FD_HOST_DEVICE static Vec load(const BFloat16* p) {
    return Vec(bit_cast<Values>(__builtin_convertvector(load_bytes<Halves>(p), Words) << 16));
  }
  FD_HOST_DEVICE void store(BFloat16* p) const {
    const Words u = bit_cast<Words>(v);
    const Words rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const Words quiet = (u >> 16) | 0x40u;
    store_bytes(p, __builtin_convertvector(v == v ? rounded : quiet, Halves));
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

// Keep bits of consecutive mask indices, 64 at a time. The last batch is remembered: rows shorter than it, and rows
// that share their mask, find their bits there.
template <class Isa>
class KeepBits {
 public:
  FD_HOST_DEVICE explicit KeepBits(const Mask& mask) : mask_(mask), keys_(mask.seed) {}

  // Bit i: mask index 8 * group + i.
  FD_HOST_DEVICE uint64_t batch(uint64_t group) {
    if (mask_.p.keeps_none()) return 0;
    uint64_t ties;
    uint64_t keep = Isa::keep_batch(mask_, keys_, group, ties);
    if (__builtin_expect(ties != 0 && mask_.low_threshold() != 0, 0)) keep = resolve(group, keep, ties);
    return keep;
  }

  // Bits from any mask index on; how many of the 64 are valid is in `count`.
  FD_HOST_DEVICE uint64_t from(uint64_t mask_index, int64_t& count) {
    const uint64_t ahead = mask_index - cached_from_;
    if (ahead >= kBatch || !cached_) {
      cached_ = true;
      cached_from_ = mask_index & ~uint64_t{kGroup - 1};
      cached_bits_ = batch(cached_from_ / kGroup);
    }
    const int skip = static_cast<int>(mask_index - cached_from_);
    count = kBatch - skip;
    return cached_bits_ >> skip;
  }

  // 64 valid bits from any mask index on.
  FD_HOST_DEVICE uint64_t all_from(uint64_t mask_index) {
    const uint64_t group = mask_index / kGroup;
    const int skip = static_cast<int>(mask_index % kGroup);
    const uint64_t bits = batch(group) >> skip;
    return skip ? bits | batch(group + kGroup) << (kBatch - skip) : bits;
  }

  FD_HOST_DEVICE bool one(uint64_t mask_index) const { return mask_.keep(mask_index); }

 private:
  // A batch in a thousand comes here.
  __attribute__((noinline)) uint64_t resolve(uint64_t group, uint64_t keep, uint64_t ties) const {
    for (int g = 0; g < kBatch / kGroup; ++g) {
      const int at = g * kGroup;
      const uint32_t octet = mask_.resolve(group + static_cast<uint64_t>(g), keep >> at & 0xff, ties >> at & 0xff);
      keep = (keep & ~(uint64_t{0xff} << at)) | static_cast<uint64_t>(octet) << at;
    }
    return keep;
  }

  Mask mask_;
  PhiloxKeyTable keys_;
  bool cached_ = false;
  uint64_t cached_from_ = 0, cached_bits_ = 0;
};

}  // namespace fused_dropout

// Vectors of values, in the compilers' own vector extension: one source for every instruction set and for ARM.
//
// An instruction set is a struct that gives the width, the generator of random halves and, where the machine has
// instructions for them, the conversions of float16. The generator makes the keep bits of kWords batches side by side
// where a few are wanted, and of kLinearWords or so in a long loop. Everything is a template over it, so that no two
// translation units share a function. Included after the target pragma of kernels_*.cpp.
#pragma once

#include <type_traits>

#include "../core/dtype.h"
#include "../core/mask.h"
#include "../core/series.h"

namespace fused_dropout {

constexpr int kBatch = 64;  // elements: a word of keep bits

template <int N>
struct Words {
  uint64_t word[N];
};

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

  // The bits from `lane` on, one a lane.
  template <class C>
  static FD_HOST_DEVICE Keep<C> keep_at(uint64_t bits, int lane) {
    Keep<C> lane_bit;
    for (size_t i = 0; i < kBytes / sizeof(C); ++i) lane_bit[i] = Integer<C>{1} << i;
    return ((static_cast<Integer<C>>(bits >> lane) - Keep<C>{}) & lane_bit) != 0;
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
  using Component = C;
  using Bits = typename VectorOf<typename FloatingPoint<C>::Bits, Isa::kBytes>::type;

  Values v;

  FD_HOST_DEVICE Vec() = default;
  FD_HOST_DEVICE explicit Vec(Values values) : v(values) {}
  FD_HOST_DEVICE explicit Vec(C everywhere) : v(everywhere - Values{}) {}

  FD_HOST_DEVICE friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  FD_HOST_DEVICE friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  FD_HOST_DEVICE friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  FD_HOST_DEVICE friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  FD_HOST_DEVICE friend Vec select(Keep keep, Vec kept, Vec dropped) {
    return Vec(Isa::select(keep, kept.v, dropped.v));
  }

  FD_HOST_DEVICE friend Vec where_less(Vec a, Vec b, Vec less, Vec other) { return Vec(a.v < b.v ? less.v : other.v); }

  // kLanes bits from `lane` on, one a lane.
  FD_HOST_DEVICE static Keep keep_at(uint64_t bits, int lane) { return Isa::template keep_at<C>(bits, lane); }

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

}  // namespace fused_dropout

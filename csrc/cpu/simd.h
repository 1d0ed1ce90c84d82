// Vectors of values, in the compilers' own vector extension: one source for every instruction set and for ARM.
//
// The loops take registers in pairs, and how the elements of a pair lie in them is the type's (kInTurns).
//
// An instruction set is a struct that gives the width, the generator of random halves, fma and, where the machine has
// instructions for them, powers of two and the conversions of float16. The generator makes the keep bits of kWords
// batches side by side where a few are wanted, and of kLinearWords or so in a long loop. Everything is a template over
// it, so that no two translation units share a function. Included after the target pragma of kernels_*.cpp.
#pragma once

#include <type_traits>

#include "../core/dtype.h"
#include "../core/exponential.h"
#include "../core/mask.h"

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

// How the elements of two registers lie in them: those of the first come before those of the second, or, of bfloat16,
// in turns. Then the two elements of 32 bits lie in the same lane of either, and widening is a shift and a mask,
// narrowing no permutation.
template <class T>
constexpr bool kInTurns = std::is_same_v<T, BFloat16>;
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first of two elements is the lower half of their word");

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

  // The bits from `first` on, one a lane, or every second bit.
  template <class C, int kStep>
  static FD_HOST_DEVICE Keep<C> keep_at(uint64_t bits, int first) {
    Keep<C> lane_bit;
    for (size_t i = 0; i < kBytes / sizeof(C); ++i) lane_bit[i] = Integer<C>{1} << kStep * i;
    return ((static_cast<Integer<C>>(bits >> first) - Keep<C>{}) & lane_bit) != 0;
  }

  template <class Keep, class Values>
  static FD_HOST_DEVICE Values select(Keep keep, Values kept, Values dropped) {
    return keep ? kept : dropped;
  }
};

// One register of C (float or double).
template <class Isa, class C>
struct Vec {
  static constexpr int kLanes = Isa::kBytes / static_cast<int>(sizeof(C));
  using Values = typename VectorOf<C, Isa::kBytes>::type;
  using Keep = typename Isa::template Keep<C>;
  using Component = C;
  using Bits = typename VectorOf<typename Number<C>::Bits, Isa::kBytes>::type;

  Values v;

  FD_HOST_DEVICE Vec() = default;
  FD_HOST_DEVICE explicit Vec(Values values) : v(values) {}
  FD_HOST_DEVICE explicit Vec(C everywhere) : v(everywhere - Values{}) {}

  FD_HOST_DEVICE friend Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
  FD_HOST_DEVICE friend Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
  FD_HOST_DEVICE friend Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
  FD_HOST_DEVICE friend Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
  FD_HOST_DEVICE friend Vec multiply_add(Vec a, Vec b, Vec c) { return Vec(Isa::multiply_add(a.v, b.v, c.v)); }
  FD_HOST_DEVICE friend Vec select(Keep keep, Vec kept, Vec dropped) {
    return Vec(Isa::select(keep, kept.v, dropped.v));
  }

  FD_HOST_DEVICE friend Vec where_less(Vec a, Vec b, Vec less, Vec other) { return Vec(a.v < b.v ? less.v : other.v); }
  template <class Side>
  FD_HOST_DEVICE friend Vec times_power_of_two(Vec m, Vec shifted) {
    if constexpr (Isa::kScales) return Vec(Isa::scale(m.v, shifted.v - kIntegers<Side, C>));
    return fused_dropout::times_power_of_two<Side, Vec>(m, shifted);
  }

  FD_HOST_DEVICE static Vec load(const C* p) { return Vec(load_bytes<Values>(p)); }
  FD_HOST_DEVICE void store(C* p) const { store_bytes(p, v); }

  // Register `half` of a pair of T, by the pair's first element: its decisions, and its values.
  template <class T>
  FD_HOST_DEVICE static Keep keep_at(uint64_t bits, int first, int half) {
    if constexpr (kInTurns<T>) return Isa::template keep_at<C, 2>(bits, first + half);
    return Isa::template keep_at<C, 1>(bits, first + half * kLanes);
  }
  template <class T>
  FD_HOST_DEVICE static Vec load(const T* p, int half) {
    return load(p + half * kLanes);
  }
  template <class T>
  FD_HOST_DEVICE static void store(Vec first, Vec second, T* p) {
    first.store(p);
    second.store(p + kLanes);
  }

  using Words = typename VectorOf<uint32_t, Isa::kBytes>::type;
  using PairsOfWords = typename VectorOf<uint64_t, 2 * Isa::kBytes>::type;

  // The same of numbers of C in the elements' order (noise, sums), for registers of T.
  template <class T>
  FD_HOST_DEVICE static Vec load_as(const C* p, int half) {
    if constexpr (kInTurns<T>) {
      const PairsOfWords both = load_bytes<PairsOfWords>(p);
      return Vec(bit_cast<Values>(__builtin_convertvector(half == 0 ? both : both >> 32, Words)));
    }
    return load(p, half);
  }
  template <class T>
  FD_HOST_DEVICE static void store_as(Vec first, Vec second, C* p) {
    if constexpr (kInTurns<T>) {
      const PairsOfWords even = __builtin_convertvector(bit_cast<Words>(first.v), PairsOfWords);
      return store_bytes(p, even | __builtin_convertvector(bit_cast<Words>(second.v), PairsOfWords) << 32);
    }
    return store(first, second, p);
  }

  // The narrower types, for C = float.
  using Halves = typename VectorOf<uint16_t, Isa::kBytes>::type;

  FD_HOST_DEVICE static Vec load(const BFloat16* p, int half) {
    const Words both = load_bytes<Words>(p);
    return Vec(bit_cast<Values>(half == 0 ? both << 16 : both & 0xffff0000u));
  }
  // To nearest even, both registers at once: the upper halves, which are left, and the lower ones, which are cut off,
  // each in the elements' order. Of a nan the lower half must be zero, so that nothing is rounded; it is, where the nan
  // comes from a bfloat16 operand or an invalid operation.
  FD_HOST_DEVICE static void store(Vec first, Vec second, BFloat16* p) {
    const Words even = bit_cast<Words>(first.v), odd = bit_cast<Words>(second.v);
    const Halves left = bit_cast<Halves>((odd & 0xffff0000u) | even >> 16);
    const Halves cut = bit_cast<Halves>(odd << 16 | (even & 0xffffu));
    const Halves rounds_up = bit_cast<Halves>(cut >= (uint16_t{0x8000} | (~left & uint16_t{1})));
    store_bytes(p, left - rounds_up);  // a truth value is -1
  }

  FD_HOST_DEVICE static Vec load(const Half* p) { return Vec(Isa::template load_half<Values>(p)); }
  FD_HOST_DEVICE void store(Half* p) const { Isa::store_half(v, p); }
};

// The keys of the ten rounds, as a vector lane wants them: in memory, to be broadcast.
struct PhiloxKeyTable {
  uint64_t key[2 * kPhiloxRounds];

  FD_HOST_DEVICE explicit PhiloxKeyTable(uint64_t seed) {
    for (int i = 0; i < 2 * kPhiloxRounds; ++i) key[i] = PhiloxKey{seed}(i / 2, i % 2);
  }
};

}  // namespace fused_dropout

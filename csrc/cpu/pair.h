// Two registers as one operand: what is written once is done with both, side by side. A chain of dependent instructions
// alone, such as a series, leaves the processor idle for most of its latency.
#pragma once

#include <type_traits>

#include "simd.h"

namespace fused_dropout {

// Of vectors of values, of their bits, or of truth values.
template <class X>
struct Pair {
  X first, second;

  FD_HOST_DEVICE Pair() = default;
  FD_HOST_DEVICE Pair(X first, X second) : first(first), second(second) {}
  template <class C, class = std::enable_if_t<std::is_arithmetic_v<C>>>
  FD_HOST_DEVICE explicit Pair(C everywhere) : first(everywhere), second(everywhere) {}

  FD_HOST_DEVICE friend Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
  FD_HOST_DEVICE friend Pair operator-(Pair a, Pair b) { return {a.first - b.first, a.second - b.second}; }
  FD_HOST_DEVICE friend Pair operator*(Pair a, Pair b) { return {a.first * b.first, a.second * b.second}; }
  FD_HOST_DEVICE friend Pair operator/(Pair a, Pair b) { return {a.first / b.first, a.second / b.second}; }
  FD_HOST_DEVICE friend Pair multiply_add(Pair a, Pair b, Pair c) {
    return {multiply_add(a.first, b.first, c.first), multiply_add(a.second, b.second, c.second)};
  }
  template <class Side>
  FD_HOST_DEVICE friend Pair times_power_of_two(Pair m, Pair shifted) {
    return {times_power_of_two<Side>(m.first, shifted.first), times_power_of_two<Side>(m.second, shifted.second)};
  }
  template <class Keep>
  FD_HOST_DEVICE friend Pair select(Pair<Keep> keep, Pair kept, Pair dropped) {
    return {select(keep.first, kept.first, dropped.first), select(keep.second, kept.second, dropped.second)};
  }
  FD_HOST_DEVICE friend Pair where_less(Pair a, Pair b, Pair less, Pair other) {
    return {where_less(a.first, b.first, less.first, other.first),
            where_less(a.second, b.second, less.second, other.second)};
  }
};

// Bits and numbers.
template <class Bits, class C, class = std::enable_if_t<std::is_arithmetic_v<C>>>
FD_HOST_DEVICE Pair<Bits> operator|(Pair<Bits> a, C b) {
  return {a.first | b, a.second | b};
}

template <class V>
struct Number<Pair<V>> {
  using Component = typename V::Component;
  using Bits = Pair<typename V::Bits>;
};

}  // namespace fused_dropout

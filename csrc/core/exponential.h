// e^x with the same bits on every machine (series.h says how), to an ulp or two.
#pragma once

#include <cstdint>

#include "series.h"

namespace fused_dropout {

// Of e^r.
template <class C>
struct ExponentialTerms {
  static constexpr int kCount = FloatingPoint<C>::kExponentialTerms;
  static FD_HOST_DEVICE constexpr C coefficient(int i) { return static_cast<C>(inverse_factorial(i)); }
};

// So large that a sum with it has no fraction: its lowest bits are an integer's.
template <class C>
constexpr C kIntegers = static_cast<C>(int64_t{3} << (FloatingPoint<C>::kMantissa - 1));

// m 2^n, rounded once, for m near 1: as two factors, each within the range of a normal number. `shifted` is
// n + kIntegers.
template <class V>
FD_HOST_DEVICE V times_power_of_two(V m, V shifted) {
  using C = Component<V>;
  using F = FloatingPoint<C>;
  using Bits = typename Number<V>::Bits;
  const Bits power = bit_cast<Bits>(shifted) - bit_cast<typename F::Bits>(kIntegers<C>), half = power >> 1;
  const V one = bit_cast<V>((half + F::kBias) << F::kMantissa);
  const V other = bit_cast<V>((power - half + F::kBias) << F::kMantissa);
  return m * one * other;
}

// n ln 2 + remainder
template <class V>
struct Reduced {
  V shifted;  // n + kIntegers
  V remainder;
};

template <class V>
FD_HOST_DEVICE Reduced<V> reduced(V x) {
  using C = Component<V>;
  using F = FloatingPoint<C>;
  const V shifted = multiply_add(x, V(C(1.44269504088896340736)), V(kIntegers<C>));
  const V n = shifted - V(kIntegers<C>);
  return {shifted, multiply_add(n, V(-F::kLn2Low), multiply_add(n, V(-F::kLn2High), x))};
}

// e^x, where it is neither 0 nor infinity.
template <class V>
FD_HOST_DEVICE V exponential_of(Reduced<V> x) {
  return times_power_of_two(polynomial<ExponentialTerms<Component<V>>>(x.remainder), x.shifted);
}

// e^x. V: float, double, or a vector.
template <class V>
FD_HOST_DEVICE V exponential(V x) {
  using F = FloatingPoint<Component<V>>;
  x = where_less(x, V(F::kExpZero), V(F::kExpZero), x);
  x = where_less(V(F::kExpInfinity), x, V(F::kExpInfinity), x);
  return exponential_of(reduced(x));
}

}  // namespace fused_dropout

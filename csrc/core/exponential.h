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

// To which side e^x may leave the range of normal numbers: to 0, or to infinity. So that 2^n does not, it has an
// exponent further off, which a factor takes back.
struct ToZero {
  template <class C>
  static constexpr int kFurther = FloatingPoint<C>::kFar;
  template <class C>
  static constexpr C kBack = 1 / FloatingPoint<C>::kFarPower;
};
struct ToInfinity {
  template <class C>
  static constexpr int kFurther = -FloatingPoint<C>::kFar;
  template <class C>
  static constexpr C kBack = FloatingPoint<C>::kFarPower;
};

// So large that a sum with it has no fraction: of n + kIntegers the lowest bits are those of 2^n's exponent.
template <class Side, class C>
constexpr C kIntegers = static_cast<C>((int64_t{3} << (FloatingPoint<C>::kMantissa - 1)) + FloatingPoint<C>::kBias +
                                       Side::template kFurther<C>);

// m 2^n, rounded once, for m near 1. `shifted` is n + kIntegers.
template <class Side, class V>
FD_HOST_DEVICE V times_power_of_two(V m, V shifted) {
  using C = Component<V>;
  const V power = bit_cast<V>(bit_cast<typename Number<V>::Bits>(shifted) << FloatingPoint<C>::kMantissa);
  return m * power * V(Side::template kBack<C>);
}

// n ln 2 + remainder
template <class V>
struct Reduced {
  V shifted;  // n + kIntegers
  V remainder;
};

template <class Side, class V>
FD_HOST_DEVICE V nearest_power(V x) {
  using C = Component<V>;
  return multiply_add(x, V(C(1.44269504088896340736)), V(kIntegers<Side, C>));
}

// Of x.
template <class Side, class V>
FD_HOST_DEVICE Reduced<V> reduced(V x) {
  using F = FloatingPoint<Component<V>>;
  const V shifted = nearest_power<Side>(x), n = shifted - V(kIntegers<Side, Component<V>>);
  return {shifted, multiply_add(n, V(-F::kLn2Low), multiply_add(n, V(-F::kLn2High), x))};
}

// Of a b, as if the product were not rounded: n times the upper part of ln 2 is not.
template <class Side, class V>
FD_HOST_DEVICE Reduced<V> reduced_product(V a, V b) {
  using F = FloatingPoint<Component<V>>;
  const V shifted = nearest_power<Side>(a * b), n = shifted - V(kIntegers<Side, Component<V>>);
  return {shifted, multiply_add(n, V(-F::kLn2Low), multiply_add(a, b, n * V(-F::kLn2High)))};
}

// e^x, where it is neither 0 nor infinity.
template <class Side, class V>
FD_HOST_DEVICE V exponential_of(Reduced<V> x) {
  return times_power_of_two<Side>(polynomial<ExponentialTerms<Component<V>>>(x.remainder), x.shifted);
}

// e^x of x <= 0, and nan of a nan. V: float, double, or a vector.
template <class V>
FD_HOST_DEVICE V decay(V x) {
  using C = Component<V>;
  const V zero(FloatingPoint<C>::kExpZero);
  x = where_less(x, zero, zero, x);
  return exponential_of<ToZero>(reduced<ToZero>(x));
}

// 1 + e^x, and any number of a nan.
template <class V>
FD_HOST_DEVICE V one_plus_exponential(V x) {
  using C = Component<V>;
  x = lesser(greater(x, V(C(-40))), V(FloatingPoint<C>::kExpInfinity));  // where the sum is 1, and infinity
  return V(C(1)) + exponential_of<ToInfinity>(reduced<ToInfinity>(x));
}

}  // namespace fused_dropout

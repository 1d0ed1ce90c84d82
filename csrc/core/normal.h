// Normal noise: Box-Muller (Ann. Math. Statist. 29, 1958) on the words of two neighbouring lanes of a group.
//
// Logarithm, sine and cosine are Taylor's series (series.h): the noise has the same bits on every machine, to a few ulp
// of the true value.
#pragma once

#include <cmath>
#include <cstdint>

#include "series.h"

namespace fused_dropout {

// 1/n! - z/(n+2)! + z^2/(n+4)! - ...: the cosine of sqrt(z) for n = 0, the sine divided by sqrt(z) for n = 1.
template <class C, int n, int last>
FD_HOST_DEVICE C trigonometric_series(C z) {
  constexpr C first = static_cast<C>(inverse_factorial(n));
  if constexpr (n < last) {
    return first - z * trigonometric_series<C, n + 2, last>(z);
  } else {
    return first;
  }
}

// 1/n + z/(n+2) + z^2/(n+4) + ...: for n = 1 the inverse hyperbolic tangent of sqrt(z), divided by sqrt(z).
template <class C, int n, int last>
FD_HOST_DEVICE C logarithmic_series(C z) {
  constexpr C first = static_cast<C>(1.0 / n);
  if constexpr (n < last) {
    return first + z * logarithmic_series<C, n + 2, last>(z);
  } else {
    return first;
  }
}

// ln((word + 1/2) / 2^32), always negative. Near 1 the distance from 1 is exact in integers, and so is kept.
template <class C>
FD_HOST_DEVICE C log_uniform(uint32_t word) {
  using F = FloatingPoint<C>;
  using Bits = typename F::Bits;
  constexpr Bits one = Bits{F::kBias} << F::kMantissa;
  const Bits x = bit_cast<Bits>(static_cast<C>(word) + C(0.5)) + (one - F::kRootHalf);
  const int exponent = static_cast<int>(x >> F::kMantissa) - F::kBias;
  const C mantissa = bit_cast<C>((x & ((Bits{1} << F::kMantissa) - 1)) + F::kRootHalf);  // from sqrt(1/2) to sqrt(2)
  const C below_one = (static_cast<C>(~word) + C(0.5)) * C(-0x1p-32);
  const C d = exponent == 32 ? below_one : mantissa - C(1);
  const C s = d / (C(2) + d);
  const C log_mantissa = (s + s) * logarithmic_series<C, 1, F::kLogTerms>(s * s);
  return static_cast<C>(exponent - 32) * C(0.69314718055994530942) + log_mantissa;
}

template <class C>
struct NormalPair {
  C even, odd;  // of lanes 2k and 2k + 1
};

// r = sqrt(-2 ln u0), angle = 2 pi u1, u = (word + 1/2) / 2^32: r cos(angle) and r sin(angle).
template <class C>
FD_HOST_DEVICE NormalPair<C> normal_pair(uint32_t word0, uint32_t word1) {
  const C r = std::sqrt(C(-2) * log_uniform<C>(word0));
  // The nearest multiple of a quarter turn, and what is left of the angle, at most an eighth.
  const uint32_t turned = word1 + 0x20000000u, quarters = turned >> 30;
  const C left = static_cast<C>(static_cast<int32_t>(turned & 0x3fffffffu) - 0x20000000);
  const C angle = (left + C(0.5)) * C(6.28318530717958647692 * 0x1p-32);
  const C z = angle * angle;
  const C cosine = trigonometric_series<C, 0, FloatingPoint<C>::kSineTerms - 1>(z);
  const C sine = angle * trigonometric_series<C, 1, FloatingPoint<C>::kSineTerms>(z);
  const C along = quarters & 1 ? sine : cosine, across = quarters & 1 ? cosine : sine;
  return {(quarters + 1) & 2 ? -(r * along) : r * along, quarters & 2 ? -(r * across) : r * across};
}

}  // namespace fused_dropout

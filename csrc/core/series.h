// What the elementary functions are made of: the parts of a floating-point number, Taylor's coefficients, polynomials.
//
// Logarithm, sine, cosine and exponential are additions, multiplications, the two in one (fma), a division and a square
// root, each of which IEEE 754 rounds in one way only: they have the same bits on every machine. The series are cut
// where the next term is below half an ulp, so that the coefficients need no table.
#pragma once

#include <cmath>
#include <cstdint>

#include "dtype.h"
#include "host_device.h"

namespace fused_dropout {

FD_HOST_DEVICE constexpr double inverse_factorial(int n) {
  double inverse = 1;
  for (int i = 2; i <= n; ++i) inverse /= i;
  return inverse;
}

template <class C>
struct FloatingPoint;
template <>
struct FloatingPoint<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127, kFar = 64;
  static constexpr float kFarPower = 0x1p64f;  // 2^kFar
  static constexpr int kLogTerms = 9, kSineTerms = 11, kExponentialTerms = 8;
  static constexpr Bits kRootHalf = 0x3f3504f3;                                                // of 1/2, rounded
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682030941723212e-6f;  // 16 bits, and the rest
  static constexpr float kExpZero = -104.0f, kExpInfinity = 89.0f;  // where e^x is 0 and infinity to any rounding
};
template <>
struct FloatingPoint<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kFar = 512;
  static constexpr double kFarPower = 0x1p512;
  static constexpr int kLogTerms = 21, kSineTerms = 17, kExponentialTerms = 14;
  static constexpr Bits kRootHalf = 0x3fe6a09e667f3bcc;
  static constexpr double kLn2High = 6.93147180369123816490e-01, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpZero = -746.0, kExpInfinity = 710.0;
};

// A number, or a vector of them: of what, and its bits.
template <class V>
struct Number {
  using Component = typename V::Component;
  using Bits = typename V::Bits;
};
template <>
struct Number<float> {
  using Component = float;
  using Bits = uint32_t;
};
template <>
struct Number<double> {
  using Component = double;
  using Bits = uint64_t;
};
template <class V>
using Component = typename Number<V>::Component;

// a < b ? less : other, also where a or b is a nan.
FD_HOST_DEVICE float where_less(float a, float b, float less, float other) { return a < b ? less : other; }
FD_HOST_DEVICE double where_less(double a, double b, double less, double other) { return a < b ? less : other; }

// Of two numbers; of a number and a nan, one of the two. Of float a GPU has an instruction.
FD_HOST_DEVICE float lesser(float a, float b) { return std::fmin(a, b); }
FD_HOST_DEVICE float greater(float a, float b) { return std::fmax(a, b); }
template <class V>
FD_HOST_DEVICE V lesser(V a, V b) {
  return where_less(a, b, a, b);
}
template <class V>
FD_HOST_DEVICE V greater(V a, V b) {
  return where_less(b, a, a, b);
}

// a * b + c, rounded once.
FD_HOST_DEVICE float multiply_add(float a, float b, float c) { return std::fma(a, b, c); }
FD_HOST_DEVICE double multiply_add(double a, double b, double c) { return std::fma(a, b, c); }

// Coefficients i, i + 2, i + 4, ... of a polynomial, as those of one in x^2.
template <class Terms, int i, class V>
FD_HOST_DEVICE V every_second_term(V square) {
  constexpr auto first = Terms::coefficient(i);
  if constexpr (i + 2 < Terms::kCount) {
    return multiply_add(square, every_second_term<Terms, i + 2>(square), V(first));
  } else {
    return V(first);
  }
}

// The first coefficient and, times x, the others as two chains side by side, so that half as many instructions wait for
// each other.
template <class Terms, class V>
FD_HOST_DEVICE V polynomial(V x) {
  constexpr auto first = Terms::coefficient(0);
  const V square = x * x;
  const V rest = multiply_add(x, every_second_term<Terms, 2>(square), every_second_term<Terms, 1>(square));
  return multiply_add(x, rest, V(first));
}

}  // namespace fused_dropout

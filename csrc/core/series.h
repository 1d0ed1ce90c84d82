// What the elementary functions are made of: the parts of a floating-point number, and Taylor's coefficients.
//
// Logarithm, sine, cosine and exponential are additions, multiplications, a division and a square root, each of which
// IEEE 754 rounds in one way only: they have the same bits on every machine. The series are cut where the next term is
// below half an ulp, so that the coefficients need no table.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "host_device.h"

namespace fused_dropout {

template <int n>
struct InverseFactorial {
  static constexpr double value = InverseFactorial<n - 1>::value / n;
};
template <>
struct InverseFactorial<0> {
  static constexpr double value = 1.0;
};

template <class C>
struct FloatingPoint;
template <>
struct FloatingPoint<float> {
  using Bits = int32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr int kLogTerms = 9, kSineTerms = 11, kExponentialTerms = 8;
  static constexpr Bits kRootHalf = 0x3f3504f3;                                                // of 1/2, rounded
  static constexpr float kLn2High = 0.693145751953125f, kLn2Low = 1.42860682030941723212e-6f;  // 16 bits, and the rest
  static constexpr float kExpZero = -104.0f, kExpInfinity = 89.0f;  // where e^x is 0 and infinity to any rounding
};
template <>
struct FloatingPoint<double> {
  using Bits = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
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
  using Bits = int32_t;
};
template <>
struct Number<double> {
  using Component = double;
  using Bits = int64_t;
};
template <class V>
using Component = typename Number<V>::Component;

// a < b ? less : other, also where a or b is a nan.
FD_HOST_DEVICE float where_less(float a, float b, float less, float other) { return a < b ? less : other; }
FD_HOST_DEVICE double where_less(double a, double b, double less, double other) { return a < b ? less : other; }

}  // namespace fused_dropout

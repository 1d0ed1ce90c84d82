// The normal distribution and its density, with the same bits on every machine, to a few ulp.
#pragma once

#include <limits>

#include "exponential.h"

namespace fused_dropout {

// Phi(-a) = e^(-a^2/2) t q(kSlope t - kMiddle), where t = 1 / (kNear + a), for a up to kNone: the coefficients of q,
// lowest power first. It is the interpolating polynomial at the Chebyshev points, whose relative error is 2.0e-8
// and 1.24e-17 (tests/test_activations.py makes them).
template <class C>
struct NormalTailTerms;
template <>
struct NormalTailTerms<float> {
  static constexpr int kCount = 10;
  static constexpr float kNone = 14.4f;  // from where on Phi(-a) is 0, and e^(-a^2/2) not yet
  static constexpr float kNear = 4, kSlope = 10.25f, kMiddle = 1.5625f;
  static FD_HOST_DEVICE constexpr float coefficient(int i) {
    constexpr float table[] = {0.90949684659542213f,     0.630207530523459479f,     0.321692311108165775f,
                               0.1152111162171722f,      0.0243352640886570583f,    0.00041966094019293107f,
                               -0.0012575816077142577f,  -0.000178538518638815139f, 0.0000603472709462370419f,
                               0.0000130532604766840803f};
    return table[i];
  }
};
template <>
struct NormalTailTerms<double> {
  static constexpr int kCount = 23;
  static constexpr double kNone = 38.6;
  static constexpr double kNear = 5, kSlope = 11.25, kMiddle = 1.25;
  static FD_HOST_DEVICE constexpr double coefficient(int i) {
    constexpr double table[] = {
        0.84969577171772043,       0.7004649271683129452,     0.484374984142828287,     0.2781194819586678216,
        0.1294816507505955823,     0.04643984847116791235,    0.01123825924224734178,   0.0008922359983115002434,
        -0.0005313521414007229876, -0.0001983614953309978418, 4.02692123432885078e-6,   0.00001830949047928225411,
        1.981450149243297247e-6,   -1.631585958678798309e-6,  -3.142297400125000973e-7, 1.656107572471656017e-7,
        3.741391976327651731e-8,   -1.945894773364445259e-8,  -3.821693694312815003e-9, 2.285383069074705766e-9,
        3.0446083584414695e-10,    -1.796218476934955455e-10, -1.354190774955595739e-11};
    return table[i];
  }
};

template <class V>
FD_HOST_DEVICE V minus_magnitude(V x) {
  using Bits = typename Number<Component<V>>::Bits;
  return bit_cast<V>(bit_cast<typename Number<V>::Bits>(x) | (Bits{1} << (8 * sizeof(Bits) - 1)));
}

template <class V>
struct NormalTail {
  V at;       // or where `below` is 0 already
  V below;    // the probability of a smaller number
  V density;  // times sqrt(2 pi): e^(-at^2/2)
};

// At x <= 0. Of a nan, any numbers.
template <class V>
FD_HOST_DEVICE NormalTail<V> normal_tail(V x) {
  using C = Component<V>;
  using Terms = NormalTailTerms<C>;
  const V at = greater(x, V(-Terms::kNone));
  const V density = exponential_of<ToZero>(reduced_product<ToZero>(at, at * V(C(-0.5))));
  const V t = V(C(1)) / (V(C(Terms::kNear)) - at);
  return {at, density * (t * polynomial<Terms>(multiply_add(t, V(C(Terms::kSlope)), V(C(-Terms::kMiddle))))), density};
}

}  // namespace fused_dropout

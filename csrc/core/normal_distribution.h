// The normal distribution and its density, with the same bits on every machine, to a few ulp.
#pragma once

#include <limits>

#include "exponential.h"

namespace fused_dropout {

// The coefficients of q, where Phi(-a) = e^(-a^2/2) t q(2t - 1) and t = 4 / (4 + a): the interpolating polynomial at
// the Chebyshev points, whose relative error is 4e-9 and 6e-18. Lowest power first (tests/test_activations.py makes
// them).
template <class C>
struct NormalTail;
template <>
struct NormalTail<float> {
  static constexpr int kCount = 12;
  static constexpr float kNone = 14.4f;  // a, from where on Phi(-a) is 0, and e^(-a^2/2) not yet
  static FD_HOST_DEVICE constexpr float coefficient(int i) {
    constexpr float table[] = {0.188821282626158464f,     0.151974160053195839f,     0.096784348604778383f,
                               0.0466304962319325628f,    0.0150991609995438817f,    0.00188467219498794553f,
                               -0.000869985756450083719f, -0.000406061909315419745f, 0.0000334101065584872072f,
                               0.0000544427664127794909f, -4.31498073072358662e-7f,  -5.49476085365291342e-6f};
    return table[i];
  }
};
template <>
struct NormalTail<double> {
  static constexpr int kCount = 26;
  static constexpr double kNone = 38.6;
  static FD_HOST_DEVICE constexpr double coefficient(int i) {
    constexpr double table[] = {
        0.188821282603937873,     0.151974160492973027,     0.0967843501855537278,    0.0466304644899141214,
        0.0150991437227295368,    0.00188504724169364148,   -0.000869923091763220316, -0.000407704614668746198,
        0.0000333360773643232477, 0.0000577737368783561857, -4.77061650231027211e-7,  -8.78619164913096184e-6,
        1.79164908831909686e-7,   1.48012395350440246e-6,   -1.57459685593836377e-7,  -2.55591044345751672e-7,
        6.81165166356028893e-8,   3.90536827978280995e-8,   -2.17174078691980741e-8,  -3.58724605889700035e-9,
        5.3574135740118911e-9,    -4.02401648139925915e-10, -9.32852603463445479e-10, 2.29679116253462402e-10,
        8.5114100446019588e-11,   -3.19437197070796399e-11};
    return table[i];
  }
};

template <class V>
struct Normal {
  V below;    // the probability of a smaller number than x
  V density;  // at x, times sqrt(2 pi): e^(-x^2/2)
};

template <class V>
FD_HOST_DEVICE Normal<V> normal_distribution(V x) {
  using C = Component<V>;
  using Bits = typename Number<V>::Bits;
  const V zero(C(0)), none(NormalTail<C>::kNone);
  V a = bit_cast<V>(bit_cast<Bits>(x) & std::numeric_limits<typename FloatingPoint<C>::Bits>::max());
  a = where_less(none, a, none, a);
  const V half = a * V(C(-0.5)), exponent = a * half;
  Reduced<V> power = reduced(exponent);
  power.remainder = power.remainder + multiply_add(a, half, zero - exponent);  // what the product lost
  const V density = exponential_of(power);
  const V t = V(C(4)) / (V(C(4)) + a);
  const V tail = density * (t * polynomial<NormalTail<C>>(multiply_add(V(C(2)), t, V(C(-1)))));
  return {where_less(x, zero, tail, V(C(1)) - tail), density};
}

}  // namespace fused_dropout

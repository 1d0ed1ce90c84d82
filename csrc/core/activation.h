// The activations: values and derivatives. V: a float, a double, or a vector of them.
//
// Infinities and nans come out as PyTorch's activations have them.
#pragma once

#include "normal_distribution.h"

namespace fused_dropout {

template <class V>
FD_HOST_DEVICE V constant(double c) {
  return V(static_cast<Component<V>>(c));
}

// x <= 0 ? 0 : other, and other where x is a nan.
template <class V>
FD_HOST_DEVICE V where_positive(V x, V other) {
  const V zero = constant<V>(0);
  return where_less(zero, x, other, where_less(x, constant<V>(1), zero, other));
}

// 1 / (1 + e^-x)
template <class V>
FD_HOST_DEVICE V sigmoid(V x) {
  return constant<V>(1) / one_plus_exponential(constant<V>(0) - x);
}

// max(x, 0)
struct Relu {
  static constexpr const char* kName = "relu";
  template <class V>
  static FD_HOST_DEVICE V value(V x) {
    return where_positive(x, x);
  }
};

// max(x, 0)^2 (So et al., "Primer: searching for efficient transformers for language modeling", 2021)
struct SquaredRelu {
  static constexpr const char* kName = "squared_relu";
  template <class V>
  static FD_HOST_DEVICE V value(V x) {
    return Relu::value(x) * Relu::value(x);
  }
  template <class V>
  static FD_HOST_DEVICE V derivative(V x) {
    return Relu::value(x) + Relu::value(x);
  }
};

// x times the probability of a normal number below it (Hendrycks and Gimpel, "Gaussian error linear units", 2016)
struct Gelu {
  static constexpr const char *kName = "gelu", *kGatedName = "geglu";
  template <class V>
  static FD_HOST_DEVICE V value(V x) {
    // max(x, 0) - |x| Phi(-|x|), whose first term is nan of -infinity, as the product x Phi(x) is
    const V half = constant<V>(0.5), negative = minus_magnitude(x);
    const NormalTail<V> tail = normal_tail(negative);
    return multiply_add(tail.at, tail.below, multiply_add(half, x, negative * (constant<V>(0) - half)));
  }
  template <class V>
  static FD_HOST_DEVICE V derivative(V x) {
    const NormalTail<V> tail = normal_tail(minus_magnitude(x));
    const V below = where_less(x, constant<V>(0), tail.below, constant<V>(1) - tail.below);
    return multiply_add(x, tail.density * constant<V>(0.39894228040143267794), below);  // 1 / sqrt(2 pi)
  }
};

// The same paper's approximation, x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): a sigmoid of twice the argument.
struct GeluTanh {
  static constexpr const char *kName = "gelu_tanh", *kGatedName = "geglu_tanh";
  static constexpr double kTwice = 1.59576912160573071176, kCube = 0.044715;  // 2 sqrt(2 / pi)
  template <class V>
  static FD_HOST_DEVICE V argument(V x) {
    return x * multiply_add(x * x, constant<V>(kTwice * kCube), constant<V>(kTwice));
  }
  template <class V>
  static FD_HOST_DEVICE V value(V x) {
    return x / one_plus_exponential(constant<V>(0) - argument(x));
  }
  template <class V>
  static FD_HOST_DEVICE V derivative(V x) {
    const V s = sigmoid(argument(x));
    const V slope = multiply_add(x * x, constant<V>(3 * kTwice * kCube), constant<V>(kTwice));
    return multiply_add(x * (s * (constant<V>(1) - s)), slope, s);
  }
};

// x sigmoid(x) (Elfwing et al., "Sigmoid-weighted linear units", 2017)
struct Silu {
  static constexpr const char *kName = "silu", *kGatedName = "swiglu";
  template <class V>
  static FD_HOST_DEVICE V value(V x) {
    return x / one_plus_exponential(constant<V>(0) - x);
  }
  template <class V>
  static FD_HOST_DEVICE V derivative(V x) {
    const V s = sigmoid(x);
    return s * multiply_add(x, constant<V>(1) - s, constant<V>(1));
  }
};

}  // namespace fused_dropout

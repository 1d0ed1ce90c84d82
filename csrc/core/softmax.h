// Softmax and dropout of attention scores.
#pragma once

#include "exponential.h"
#include "rowwise.h"

namespace fused_dropout {

// s = e^(z - shift) * inverse, y = keep ? s * gain : 0, where z = x * scale, or less what takes no part.
//
// `shift` is the row's maximum and `inverse` one by the sum, so that the backward direction has the forward's bits. Of
// a row in which nothing takes part both are 0, and so are all s. An infinite or nan z makes a row of nan.
template <class C>
struct SoftmaxDropout {
  static constexpr int kInputs = 1, kKept = 1, kRounds = 2, kSums = 1, kColumns = 0;
  static constexpr bool kMaskFirst = false, kStoresFirst = false, kMaximum = true, kKeepsSteps = true;
  static constexpr bool kRecomputes = false, kAttends = true, kBackward = false;

  RowConstants<C> row;
  C statistic[2] = {};  // shift, inverse
  FD_HOST_DEVICE explicit SoftmaxDropout(RowConstants<C> row) : row(row) {}

  template <class K, class V>
  FD_HOST_DEVICE void begin(K, const V (&z)[kInputs], V (&kept)[kKept]) const {
    kept[0] = z[0];
  }
  template <int kRound, class V>
  FD_HOST_DEVICE void step(V (&kept)[kKept]) const {
    if (kRound == 1) kept[0] = decay(kept[0] - V(statistic[0]));
  }

  template <int kRound, class V>
  FD_HOST_DEVICE void term(const V (&kept)[kKept], V, V (&add)[kSums]) const {
    add[0] = kept[0];
  }
  template <int kRound>
  FD_HOST_DEVICE void finish(const C (&sum)[kSums]) {
    if (kRound == 0) {
      statistic[0] = sum[0] == -static_cast<C>(HUGE_VAL) ? C(0) : sum[0];
    } else {
      statistic[1] = sum[0] == C(0) ? C(0) : C(1) / sum[0];
    }
  }

  template <class V>
  FD_HOST_DEVICE V output(const V (&kept)[kKept], V, V) const {
    return kept[0] * V(statistic[1]);
  }
  template <class K, class V>
  FD_HOST_DEVICE V second(K keep, V s) const {
    return select(keep, s * V(row.gain), V(C(0)));
  }
};

// Inputs: x, and the gradient of y. With g = keep ? grad_y * gain : 0:
//   grad_z = s * (g - sum of g * s), grad_x = grad_z * scale
template <class C>
struct SoftmaxDropoutBackward {
  static constexpr int kInputs = 2, kKept = 2, kRounds = 1, kSums = 1, kColumns = 0;
  static constexpr bool kMaskFirst = true, kStoresFirst = false, kMaximum = false, kKeepsSteps = false;
  static constexpr bool kRecomputes = false, kAttends = true, kBackward = true;

  RowConstants<C> row;
  C statistic[2] = {};  // shift, inverse
  C dot = 0;
  FD_HOST_DEVICE explicit SoftmaxDropoutBackward(RowConstants<C> row) : row(row) {}

  template <class K, class V>
  FD_HOST_DEVICE void begin(K keep, const V (&x)[kInputs], V (&kept)[kKept]) const {
    kept[0] = decay(x[0] - V(statistic[0])) * V(statistic[1]);
    kept[1] = select(keep, x[1] * V(row.gain), V(C(0)));
  }
  template <int kRound, class V>
  FD_HOST_DEVICE void step(V (&)[kKept]) const {}

  template <int kRound, class V>
  FD_HOST_DEVICE void term(const V (&kept)[kKept], V, V (&add)[kSums]) const {
    add[0] = kept[0] * kept[1];
  }
  template <int kRound>
  FD_HOST_DEVICE void finish(const C (&sum)[kSums]) {
    dot = sum[0];
  }

  template <class V>
  FD_HOST_DEVICE V output(const V (&kept)[kKept], V, V) const {
    return kept[0] * (kept[1] - V(dot));
  }
  template <class K, class V>
  FD_HOST_DEVICE V second(K, V grad_z) const {
    return grad_z * V(row.constant);
  }
};

}  // namespace fused_dropout

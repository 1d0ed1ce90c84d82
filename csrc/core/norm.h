// Layer norm (Ba et al. 2016) and RMS norm (Zhang and Sennrich 2019) of a residual and a dropped input.
#pragma once

#include <cmath>

#include "rowwise.h"

namespace fused_dropout {

// sum = residual + (keep ? x * gain : 0), y = (sum - mean) * rstd * weight + bias. Without a centre, mean is 0.
template <class C, bool kCentred>
struct DropoutAddNorm {
  static constexpr int kInputs = 2, kKept = 1, kRounds = kCentred ? 2 : 1, kSums = 1, kColumns = 0;
  static constexpr bool kMaskFirst = true, kStoresFirst = true, kMaximum = false, kKeepsSteps = false;
  static constexpr bool kRecomputes = false, kAttends = false, kBackward = false;

  RowConstants<C> row;
  C statistic[2] = {};  // mean, rstd
  FD_HOST_DEVICE explicit DropoutAddNorm(RowConstants<C> row) : row(row) {}

  template <class K, class V>
  FD_HOST_DEVICE void begin(K keep, const V (&x)[kInputs], V (&kept)[kKept]) const {
    kept[0] = x[1] + select(keep, x[0] * V(row.gain), V(C(0)));
  }
  template <int kRound, class V>
  FD_HOST_DEVICE void step(V (&)[kKept]) const {}

  template <int kRound, class V>
  FD_HOST_DEVICE void term(const V (&kept)[kKept], V, V (&add)[kSums]) const {
    const V x = kept[0] - V(statistic[0]);
    add[0] = kCentred && kRound == 0 ? kept[0] : x * x;
  }
  template <int kRound>
  FD_HOST_DEVICE void finish(const C (&sum)[kSums]) {
    if (kCentred && kRound == 0) {
      statistic[0] = sum[0] / row.features;
    } else {
      statistic[1] = C(1) / std::sqrt(sum[0] / row.features + row.constant);
    }
  }

  template <class V>
  FD_HOST_DEVICE V output(const V (&kept)[kKept], V weight, V bias) const {
    return (kept[0] - V(statistic[0])) * V(statistic[1]) * weight + bias;
  }
  template <class K, class V>
  FD_HOST_DEVICE V second(K, V y) const {
    return y;
  }
};

// Inputs: the gradient of y, sum, and sum's own gradient. With u = grad_y * weight and n = (sum - mean) * rstd:
//   grad_residual = rstd * (u - mean of u - n * mean of (n * u)) + grad_sum,
//   grad_input = keep ? grad_residual * gain : 0
template <class C, bool kCentred>
struct DropoutAddNormBackward {
  static constexpr int kInputs = 3, kKept = 3, kRounds = 1, kSums = kCentred ? 2 : 1, kColumns = 2;
  static constexpr bool kMaskFirst = false, kStoresFirst = false, kMaximum = false, kKeepsSteps = false;
  static constexpr bool kRecomputes = true, kAttends = false, kBackward = true;

  RowConstants<C> row;
  C statistic[2] = {};  // mean, rstd
  C mean_nu = 0, mean_u = 0;
  FD_HOST_DEVICE explicit DropoutAddNormBackward(RowConstants<C> row) : row(row) {}

  template <class K, class V>
  FD_HOST_DEVICE void begin(K, const V (&x)[kInputs], V (&kept)[kKept]) const {
    kept[0] = x[0];
    kept[1] = (x[1] - V(statistic[0])) * V(statistic[1]);
    kept[2] = x[2];
  }
  template <int kRound, class V>
  FD_HOST_DEVICE void step(V (&)[kKept]) const {}

  template <int kRound, class V>
  FD_HOST_DEVICE void term(const V (&kept)[kKept], V weight, V (&add)[kSums]) const {
    const V u = kept[0] * weight;
    add[0] = kept[1] * u;
    if (kCentred) add[kSums - 1] = u;
  }
  template <int kRound>
  FD_HOST_DEVICE void finish(const C (&sum)[kSums]) {
    mean_nu = sum[0] / row.features;
    if (kCentred) mean_u = sum[kSums - 1] / row.features;
  }

  template <class V>
  FD_HOST_DEVICE V output(const V (&kept)[kKept], V weight, V) const {
    const V u = kept[0] * weight;
    return (u - V(mean_u) - kept[1] * V(mean_nu)) * V(statistic[1]) + kept[2];
  }
  template <class K, class V>
  FD_HOST_DEVICE V second(K keep, V grad_residual) const {
    return select(keep, grad_residual * V(row.gain), V(C(0)));
  }
  // What an element adds to the gradients of its column's weight and bias.
  template <class V>
  FD_HOST_DEVICE V column(int which, const V (&kept)[kKept]) const {
    return which == 0 ? kept[0] * kept[1] : kept[0];
  }
};

template <class C>
using LayerNorm = DropoutAddNorm<C, true>;
template <class C>
using RmsNorm = DropoutAddNorm<C, false>;
template <class C>
using LayerNormBackward = DropoutAddNormBackward<C, true>;
template <class C>
using RmsNormBackward = DropoutAddNormBackward<C, false>;

}  // namespace fused_dropout

// The pipelines of a gated linear unit and dropout: an activation of one input, times the other.
#pragma once

#include "activation.h"
#include "pipelines.h"

namespace fused_dropout {

// grad_x = keep ? grad * up * act'(x) * gain : 0 and grad_up = keep ? grad * act(x) * gain : 0
template <class C, class Act>
struct GatedBackward : PipelineTraits<3> {
  static constexpr Name kName{Act::kGatedName, "", "_dropout_backward"};
  static constexpr const char* kTensors = "Tensor grad, Tensor input, Tensor up";
  static constexpr int kOutputs = 2;
  static constexpr Role kRole = Role::kDerivative;
  static constexpr Gradient kGradient = Gradient::kComposed;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;

  Dropout<C> dropout;
  FD_HOST_DEVICE GatedBackward(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE Two<V> operator()(K keep, V grad, V x, V up) const {
    return {dropout(keep, grad * up * Act::derivative(x)), dropout(keep, grad * Act::value(x))};
  }
};

// y = keep ? act(x) * up * gain : 0 (Shazeer, "GLU variants improve transformer", 2020)
template <class C, class Act>
struct GatedDropout : PipelineTraits<2> {
  static constexpr Name kName{Act::kGatedName, "", "_dropout"};
  static constexpr const char* kTensors = "Tensor input, Tensor up";
  static constexpr Gradient kGradient = Gradient::kOfInputs;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;
  using Backward = GatedBackward<C, Act>;

  Dropout<C> dropout;
  FD_HOST_DEVICE GatedDropout(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V up) const {
    return dropout(keep, Act::value(x) * up);
  }
};

// Input and up as the halves of the rows of one tensor: the same kernels, other operations.
template <class C, class Act>
struct GatedHalvesBackward : GatedBackward<C, Act> {
  static constexpr Name kName{Act::kGatedName, "", "_dropout_halves_backward"};
  static constexpr const char* kTensors = "Tensor grad, Tensor input";
  static constexpr bool kHalves = true;
  using Kernel = GatedBackward<C, Act>;
};
template <class C, class Act>
struct GatedHalvesDropout : GatedDropout<C, Act> {
  static constexpr Name kName{Act::kGatedName, "", "_dropout_halves"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr bool kHalves = true;
  using Kernel = GatedDropout<C, Act>;
  using Backward = GatedHalvesBackward<C, Act>;
};

}  // namespace fused_dropout

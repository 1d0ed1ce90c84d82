// The pipelines of an activation and dropout, with a bias or a gate before it: forward and backward side by side.
//
// A derivative is taken at the input, which is saved, and has the forward's mask; relu's is told by its output alone.
#pragma once

#include "activation.h"
#include "pipelines.h"

namespace fused_dropout {

// grad_x = keep ? grad * act'(x) * gain : 0
template <class C, class Act>
struct ActivationBackward : PipelineTraits<2> {
  static constexpr Name kName{Act::kName, "", "_dropout_backward"};
  static constexpr const char* kTensors = "Tensor grad, Tensor input";
  static constexpr Role kRole = Role::kDerivative;
  static constexpr Gradient kGradient = Gradient::kComposed;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;

  Dropout<C> dropout;
  FD_HOST_DEVICE ActivationBackward(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V grad, V x) const {
    return dropout(keep, grad * Act::derivative(x));
  }
};

// y = keep ? act(x) * gain : 0
template <class C, class Act>
struct ActivationDropout : PipelineTraits<1> {
  static constexpr Name kName{Act::kName, "", "_dropout"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr Gradient kGradient = Gradient::kOfInputs;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;
  using Backward = ActivationBackward<C, Act>;

  Dropout<C> dropout;
  FD_HOST_DEVICE ActivationDropout(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x) const {
    return dropout(keep, Act::value(x));
  }
};

// The same with a bias: grad_x = keep ? grad * act'(x + bias) * gain : 0, and y = keep ? act(x + bias) * gain : 0
template <class C, class Act>
struct BiasActivationBackward : PipelineTraits<3> {
  static constexpr Name kName{Act::kName, "bias_", "_dropout_backward"};
  static constexpr const char* kTensors = "Tensor grad, Tensor input, Tensor bias";
  static constexpr int kBias = 2;
  static constexpr Role kRole = Role::kDerivative;
  static constexpr Gradient kGradient = Gradient::kComposed;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;

  ActivationBackward<C, Act> backward;
  FD_HOST_DEVICE BiasActivationBackward(Probability p, Gain which) : backward(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V grad, V x, V bias) const {
    return backward(keep, grad, x + bias);
  }
};
template <class C, class Act>
struct BiasActivationDropout : PipelineTraits<2> {
  static constexpr Name kName{Act::kName, "bias_", "_dropout"};
  static constexpr const char* kTensors = "Tensor input, Tensor bias";
  static constexpr int kBias = 1;
  static constexpr Gradient kGradient = Gradient::kOfInputs;
  static constexpr bool kComplex = false;
  static constexpr bool kLong = true;
  using Backward = BiasActivationBackward<C, Act>;

  ActivationDropout<C, Act> forward;
  FD_HOST_DEVICE BiasActivationDropout(Probability p, Gain which) : forward(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V bias) const {
    return forward(keep, x + bias);
  }
};

// grad_x = y > 0 ? grad * gain : 0, since what was dropped, or not positive, is 0 in the output. Without a mask.
template <class C>
struct ReluDropoutBackward : PipelineTraits<2> {
  static constexpr Name kName{"relu_dropout_backward"};
  static constexpr const char* kTensors = "Tensor grad, Tensor output";
  static constexpr Noise kNoise = Noise::kNone;
  static constexpr Role kRole = Role::kDerivative;
  static constexpr Gradient kGradient = Gradient::kComposed;
  static constexpr bool kComplex = false;

  C gain;
  FD_HOST_DEVICE ReluDropoutBackward(Probability p, Gain which) : gain(static_cast<C>(p.gain(which))) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K, V grad, V y) const {
    return where_positive(y, grad * V(gain));
  }
};
template <class C>
struct ReluDropout : ActivationDropout<C, Relu> {
  static constexpr bool kLong = false;
  static constexpr Gradient kGradient = Gradient::kOfOutput;
  using Backward = ReluDropoutBackward<C>;
  FD_HOST_DEVICE ReluDropout(Probability p, Gain which) : ActivationDropout<C, Relu>(p, which) {}
};
template <class C>
struct BiasReluDropout : BiasActivationDropout<C, Relu> {
  static constexpr bool kLong = false;
  static constexpr Gradient kGradient = Gradient::kOfOutput;
  using Backward = ReluDropoutBackward<C>;
  FD_HOST_DEVICE BiasReluDropout(Probability p, Gain which) : BiasActivationDropout<C, Relu>(p, which) {}
};

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

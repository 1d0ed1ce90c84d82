// The pipelines that add a bias before anything else. It may have fewer elements than the input: it is broadcast.
#pragma once

#include "pipelines.h"

namespace fused_dropout {

// y = keep ? (x + bias) * gain : 0
template <class C>
struct BiasDropout : PipelineTraits<2> {
  static constexpr Name kName{"bias_dropout"};
  static constexpr const char* kTensors = "Tensor input, Tensor bias";
  static constexpr int kBias = 1;
  static constexpr Derivative derivative(int, Gain gain) { return {Linear::kDropout, gain}; }

  Dropout<C> dropout;
  FD_HOST_DEVICE BiasDropout(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V bias) const {
    return dropout(keep, x + bias);
  }
};

// y = residual + (keep ? (x + bias) * gain : 0)
template <class C>
struct BiasDropoutAdd : PipelineTraits<3> {
  static constexpr Name kName{"bias_dropout_add"};
  static constexpr const char* kTensors = "Tensor input, Tensor bias, Tensor residual";
  static constexpr int kBias = 1;
  static constexpr Derivative derivative(int k, Gain g) { return {k == 2 ? Linear::kIdentity : Linear::kDropout, g}; }

  Dropout<C> dropout;
  FD_HOST_DEVICE BiasDropoutAdd(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V bias, V residual) const {
    return residual + dropout(keep, x + bias);
  }
};

}  // namespace fused_dropout

// The pipelines that a normal number decides.
#pragma once

#include "pipeline.h"

namespace fused_dropout {

// y = x * (1 + stddev * z), z normal (Srivastava et al. 2014, section 10). Zeros where p rounds to 1.
template <class C>
struct GaussianDropout : PipelineTraits<1> {
  static constexpr Name kName{"gaussian_dropout"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr Noise kNoise = Noise::kNormal;
  static constexpr bool kInPlace = true;
  static constexpr Derivative derivative(int, Gain) { return {Linear::kGaussianDropout}; }

  C stddev;
  bool none;
  FD_HOST_DEVICE GaussianDropout(Probability p, Gain) : stddev(static_cast<C>(p.stddev())), none(p.keeps_none()) {}

  template <class V>
  FD_HOST_DEVICE V operator()(V z, V x) const {
    return none ? V(C(0)) : x * (V(C(1)) + V(stddev) * z);
  }
};

// The noise itself.
template <class C>
struct NormalNoise : PipelineTraits<0> {
  static constexpr Name kName{"normal_noise"};
  static constexpr Noise kNoise = Noise::kNormal;
  static constexpr Role kRole = Role::kInternal;
  static constexpr bool kComplex = false;

  FD_HOST_DEVICE NormalNoise(Probability, Gain) {}

  template <class V>
  FD_HOST_DEVICE V operator()(V z, V) const {
    return z;
  }
};

}  // namespace fused_dropout

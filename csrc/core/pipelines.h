// The pipelines that a keep bit decides: what becomes of a kept and of a dropped element.
//
// A product and a sum round separately (-ffp-contract=off, -fmad=false) where no fma is asked for, and a dropped
// element is selected, never multiplied, so that infinities and nans do not leak.
#pragma once

#include "pipeline.h"

namespace fused_dropout {

// y = keep ? x * gain : 0. Its own derivative.
template <class C>
struct Dropout : PipelineTraits<1> {
  static constexpr Name kName{"dropout"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr bool kInPlace = true;
  static constexpr Derivative derivative(int, Gain gain) { return {Linear::kDropout, gain}; }

  C gain;
  FD_HOST_DEVICE Dropout(Probability p, Gain which) : gain(static_cast<C>(p.gain(which))) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x) const {
    return select(keep, x * V(gain), V(C(0)));
  }
};

// y = keep ? a * x + b : a * alpha' + b (Klambauer et al. 2017; torch.nn.functional.alpha_dropout)
template <class C>
struct AlphaDropout : PipelineTraits<1> {
  static constexpr Name kName{"alpha_dropout"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr bool kInPlace = true;
  static constexpr bool kComplex = false;
  static constexpr Derivative derivative(int, Gain) { return {Linear::kDropout, Gain::kAlpha}; }

  C a, kept_shift, dropped_value;
  FD_HOST_DEVICE AlphaDropout(Probability p, Gain) {
    const AlphaAffine affine = AlphaAffine::of(p);
    a = static_cast<C>(affine.a);
    kept_shift = static_cast<C>(affine.kept_shift);
    dropped_value = static_cast<C>(affine.dropped_value);
  }

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x) const {
    return select(keep, x * V(a) + V(kept_shift), V(dropped_value));
  }
};

// y = residual + (keep ? x * gain : 0)
template <class C>
struct DropoutAdd : PipelineTraits<2> {
  static constexpr Name kName{"dropout_add"};
  static constexpr const char* kTensors = "Tensor input, Tensor residual";
  static constexpr Derivative derivative(int k, Gain g) { return {k ? Linear::kIdentity : Linear::kDropout, g}; }

  Dropout<C> dropout;
  FD_HOST_DEVICE DropoutAdd(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V residual) const {
    return residual + dropout(keep, x);
  }
};

// y = keep ? x : previous (Krueger et al. 2016)
template <class C>
struct Zoneout : PipelineTraits<2> {
  static constexpr Name kName{"zoneout"};
  static constexpr const char* kTensors = "Tensor input, Tensor previous";
  static constexpr Derivative derivative(int k, Gain) { return {k ? Linear::kDropped : Linear::kDropout, Gain::kOne}; }

  FD_HOST_DEVICE Zoneout(Probability, Gain) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V previous) const {
    return select(keep, x, previous);
  }
};

// y = keep ? 0 : x. What zoneout's gradient is to the previous state.
template <class C>
struct Dropped : PipelineTraits<1> {
  static constexpr Name kName{"dropped_apply"};
  static constexpr const char* kTensors = "Tensor input";
  static constexpr Role kRole = Role::kDerivative;
  static constexpr bool kReadsDropped = true;
  static constexpr Derivative derivative(int, Gain) { return {Linear::kDropped}; }

  FD_HOST_DEVICE Dropped(Probability, Gain) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x) const {
    return select(keep, V(C(0)), x);
  }
};

// Dropout whose mask lies in memory. Its p is the fraction of elements that the blocks cover.
template <class C>
struct BlockDropout : Dropout<C> {
  static constexpr Noise kNoise = Noise::kStored;
  static constexpr Role kRole = Role::kInternal;
  FD_HOST_DEVICE BlockDropout(Probability p, Gain which) : Dropout<C>(p, which) {}
};

// The mask itself, as 0 and 1.
template <class C>
struct KeepMask : PipelineTraits<0> {
  static constexpr Name kName{"keep_mask"};
  static constexpr Role kRole = Role::kInternal;

  FD_HOST_DEVICE KeepMask(Probability, Gain) {}

  // `zero` only carries the type: there is no input to take it from.
  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V zero) const {
    return select(keep, V(C(1)), zero);
  }
};

}  // namespace fused_dropout

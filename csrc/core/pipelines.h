// What becomes of a kept and of a dropped element: one small struct an operation.
//
// The same struct runs as scalars on the GPU and as vectors on the CPU: V is a float, a double, or a vector of them, K
// the matching truth value. `C` is the type computed in. A product and a sum round separately (-ffp-contract=off,
// -fmad=false), and a dropped element is selected, never multiplied, so that infinities and nans do not leak.
//
// Every pipeline here is affine in x, so its backward is Dropout with `backward_gain` on the same state, and the
// inputs after the first receive the gradient unchanged.
#pragma once

#include "host_device.h"
#include "probability.h"

namespace fused_dropout {

enum class PipelineId { kDropout, kAlphaDropout, kDropoutAdd, kKeepMask };

FD_HOST_DEVICE float select(bool keep, float kept, float dropped) { return keep ? kept : dropped; }
FD_HOST_DEVICE double select(bool keep, double kept, double dropped) { return keep ? kept : dropped; }

// y = keep ? x * gain : 0. Its own derivative, and that of all the others.
template <class C>
struct Dropout {
  static constexpr PipelineId kId = PipelineId::kDropout;
  static constexpr int kInputs = 1;
  static constexpr Gain backward_gain(Gain gain) { return gain; }

  C gain;
  FD_HOST_DEVICE Dropout(Probability p, Gain which) : gain(static_cast<C>(p.gain(which))) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x) const {
    return select(keep, x * V(gain), V(C(0)));
  }
};

// y = keep ? a * x + b : a * alpha' + b (Klambauer et al. 2017; torch.nn.functional.alpha_dropout)
template <class C>
struct AlphaDropout {
  static constexpr PipelineId kId = PipelineId::kAlphaDropout;
  static constexpr int kInputs = 1;
  static constexpr Gain backward_gain(Gain) { return Gain::kAlpha; }

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
struct DropoutAdd {
  static constexpr PipelineId kId = PipelineId::kDropoutAdd;
  static constexpr int kInputs = 2;
  static constexpr Gain backward_gain(Gain gain) { return gain; }

  Dropout<C> dropout;
  FD_HOST_DEVICE DropoutAdd(Probability p, Gain which) : dropout(p, which) {}

  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V x, V residual) const {
    return residual + dropout(keep, x);
  }
};

// The mask itself, as 0 and 1.
template <class C>
struct KeepMask {
  static constexpr PipelineId kId = PipelineId::kKeepMask;
  static constexpr int kInputs = 0;

  FD_HOST_DEVICE KeepMask(Probability, Gain) {}

  // `zero` only carries the type: there is no input to take it from.
  template <class K, class V>
  FD_HOST_DEVICE V operator()(K keep, V zero) const {
    return select(keep, V(C(1)), zero);
  }
};

}  // namespace fused_dropout

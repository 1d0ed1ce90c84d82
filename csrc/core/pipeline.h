// What a pipeline is: one small struct an operation, that says what becomes of an element.
//
// The same struct runs as scalars on the GPU and as vectors on the CPU: V is a float, a double, or a vector of them, K
// the matching truth value. `C` is the type computed in. It is made from p and a gain, and gives
//   kId, kNoise, kInputs      its name, what decides about an element, and how many tensors it reads
//   derivative(input, gain)   what becomes of the gradient on its way to that input
//   operator()(K or V, V...)  the decision and the inputs' values to the output's
// Every pipeline is affine in each input, so a derivative is again a pipeline, of one input, with the same state.
#pragma once

#include "host_device.h"
#include "probability.h"

namespace fused_dropout {

enum class PipelineId {
  kDropout,
  kAlphaDropout,
  kDropoutAdd,
  kKeepMask,
  kGaussianDropout,
  kZoneout,
  kDropped,
  kBlockDropout,
  kNormalNoise,
  kBiasDropout,
  kBiasDropoutAdd
};

// Whether an input is a bias, which is broadcast to the first input's shape.
constexpr bool is_bias(PipelineId id, int input) {
  return input == 1 && (id == PipelineId::kBiasDropout || id == PipelineId::kBiasDropoutAdd);
}

// What decides about an element.
enum class Noise {
  kBernoulli,  // a keep bit, made from the mask index
  kStored,     // a keep bit, found in memory at the mask index: the blocks of DropBlock
  kNormal,     // a normal number, made from the mask index
};

// What becomes of the gradient on its way to an input.
enum class Linear { kIdentity, kDropout, kGaussianDropout, kDropped };
struct Derivative {
  Linear map;
  Gain gain = Gain::kUpscale;
};

// Whether the first input matters where an element is dropped. Where it does not, what is dropped is not even read.
template <class Pipeline>
constexpr bool reads_dropped = Pipeline::kId == PipelineId::kDropped;

FD_HOST_DEVICE float select(bool keep, float kept, float dropped) { return keep ? kept : dropped; }
FD_HOST_DEVICE double select(bool keep, double kept, double dropped) { return keep ? kept : dropped; }

}  // namespace fused_dropout

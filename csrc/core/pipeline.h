// What a pipeline is: one small struct an operation, that says what becomes of an element.
//
// The same struct runs as scalars on the GPU and as vectors on the CPU: V is a float, a double, or a vector of them, K
// the matching truth value. `C` is the type computed in. It is made from p and a gain, and gives
//   its traits                what it is called, reads and writes: see PipelineTraits
//   operator()(K or V, V...)  the decision and the inputs' values to the output's, or to Two
// and, as its kGradient says, derivative(input, gain), or a pipeline Backward of the gradient and of what is saved.
// All of them are rows of table.h.
#pragma once

#include "host_device.h"
#include "probability.h"

namespace fused_dropout {

// What decides about an element.
enum class Noise {
  kBernoulli,  // a keep bit, made from the mask index
  kStored,     // a keep bit, found in memory at the mask index: the blocks of DropBlock
  kNormal,     // a normal number, made from the mask index
  kNone,       // nothing
};

// What the operations of a pipeline are.
enum class Role {
  kOperation,   // one that draws a state, and one that is given it
  kDerivative,  // one that is given a state
  kInternal,    // none of its own
};

// How a pipeline is differentiated.
enum class Gradient {
  kAffine,    // in each input: its derivative is a pipeline of the gradient, with the same state
  kOfInputs,  // by its Backward, a pipeline of the gradient and the inputs
  kOfOutput,  // by its Backward, of the gradient and the output
  kComposed,  // as PyTorch's operations that are equivalent to it: a Backward's derivative
};

// What becomes of the gradient on its way to an input, where a pipeline is affine.
enum class Linear { kIdentity, kDropout, kGaussianDropout, kDropped };
struct Derivative {
  Linear map;
  Gain gain = Gain::kUpscale;
};

// The operation's name.
struct Name {
  const char* stem;
  const char* prefix = "";
  const char* suffix = "";
};

// What a pipeline says about itself, where it says nothing else. It names itself (kName), and its tensors as a schema
// does (kTensors).
template <int inputs>
struct PipelineTraits {
  static constexpr int kInputs = inputs, kOutputs = 1;
  static constexpr int kBias = -1;  // the input that is broadcast to the first one's shape
  static constexpr Noise kNoise = Noise::kBernoulli;
  static constexpr Role kRole = Role::kOperation;
  static constexpr Gradient kGradient = Gradient::kAffine;
  static constexpr bool kInPlace = false;       // whether it may write to its input
  static constexpr bool kComplex = true;        // whether it takes complex tensors, as pairs of numbers
  static constexpr bool kReadsDropped = false;  // whether the first input matters where an element is dropped
  static constexpr bool kLong = false;          // whether it is so many instructions that a loop holds them once
  static constexpr bool kHalves = false;        // whether the last two inputs are the halves of one tensor's rows
  static constexpr bool kSummed = false;        // see AndSum
};

// A pipeline whose operation also returns the sum of the output over its rows, that is over all dimensions but the
// last: of the gradient of what adds a bias, the bias's. It is made while the rows are in a cache or in registers.
template <class P>
struct AndSum : P {
  static constexpr Role kRole = Role::kDerivative;
  static constexpr Gradient kGradient = Gradient::kComposed;
  static constexpr bool kInPlace = false, kSummed = true;
  using Kernel = P;
  using P::P;
};

// The values of a pipeline with two outputs.
template <class V>
struct Two {
  V first, second;
};

FD_HOST_DEVICE float select(bool keep, float kept, float dropped) { return keep ? kept : dropped; }
FD_HOST_DEVICE double select(bool keep, double kept, double dropped) { return keep ? kept : dropped; }

}  // namespace fused_dropout

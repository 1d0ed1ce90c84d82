// Row operations: what happens to a row as a whole, and the border between PyTorch and their kernels, in plain data.
//
// A row operation is a small struct that the GPU runs with scalars and the CPU with vectors (V). It is made of rounds
// over the row: `begin` makes what is kept of an element (kKept values), each round adds terms of it to sums, or takes
// their maximum, `finish` makes numbers of the row from these, and `output` makes the results.
//   kInputs, kRounds, kSums       tensors read an element at a time, rounds, and sums a round
//   kMaskFirst                    whether `begin` asks the mask; otherwise what comes last does
//   kStoresFirst                  whether `begin` makes an output, whose rounded value is then what is kept
//   kMaximum                      whether the first round takes a maximum, and no sum
//   kKeepsSteps                   whether `step` changes what is kept, on the way into the second round
//   kRecomputes                   whether making what is kept again is cheaper than to store it
//   kColumns                      columns' sums over all rows: the gradients of a weight and a bias
//   begin, step, term, finish, output, second, column
// A row's statistics, two numbers at most, are results of the forward direction and arguments of the backward one.
#pragma once

#include "elementwise.h"

namespace fused_dropout {

enum class RowOperation {
  kLayerNorm,
  kLayerNormBackward,
  kRmsNorm,
  kRmsNormBackward,
  kSoftmax,
  kSoftmaxBackward,
};

enum class Attend { kAll, kSome, kBiased };  // no attn_mask, one of bools (true takes part), one that is added

struct RowArgs {
  int64_t rows, features;                         // rows of so many elements, one behind the other
  const void* input[3] = {};                      // of the operation's inputs those that may be missing are null
  const void *weight = nullptr, *bias = nullptr;  // an element a column
  Attend attend = Attend::kAll;
  const void* attn_mask = nullptr;
  Layout places;             // of the rows: operand 1 is attn_mask, and its mask indices
  uint64_t mask_stride = 1;  // of a row's elements
  bool masked = true;        // false: everything is kept
  void* first = nullptr;     // outputs; those that nobody wants are null
  void* output = nullptr;
  void* second = nullptr;
  void* statistic[2] = {};  // an element a row, of the type computed in
  void* column[2] = {};     // a row of sums for each part of the rows
  int64_t rows_in_part = 1;
  double constant = 0;  // eps, or the softmax's scale
  StateSource state;
  int64_t* state_out = nullptr;  // as ElementwiseArgs has it
  ProbabilitySource p;
  Gain gain = Gain::kUpscale;

  FD_HOST_DEVICE int64_t parts() const { return (rows + rows_in_part - 1) / rows_in_part; }
};

// What an operation knows before it sees a row.
template <class C>
struct RowConstants {
  C features, constant, gain;

  FD_HOST_DEVICE RowConstants(const RowArgs& a, Probability p)
      : features(static_cast<C>(a.features)),
        constant(static_cast<C>(a.constant)),
        gain(a.masked ? static_cast<C>(p.gain(a.gain)) : C(1)) {}
};

}  // namespace fused_dropout

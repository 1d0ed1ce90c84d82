// How operations come from the table of pipelines: every backend, the meta device and autograd register the same rows.
//
// A Family gives, for a pipeline, a class with the functions of its operations: `random` and `apply`, and for one that
// works in place `random_in_place` and `apply_in_place`. A pipeline that is a derivative is only applied.
#pragma once

#include <torch/library.h>

#include <string>

#include "core/table.h"

namespace fused_dropout {

// What the border has to know of a pipeline.
struct Facts {
  std::string name;  // the operation's, which is also the public function's
  int bias;
  bool complex, blocks;
  bool evaluates;  // whether in evaluation the public function does without the operation, for any dtype

  const char* c_str() const { return name.c_str(); }
};

template <class Pipeline>
const Facts& facts() {
  constexpr Name name = Pipeline::kName;
  static const Facts facts{std::string(name.prefix) + name.stem + name.suffix + (Pipeline::kSummed ? "_and_sum" : ""),
                           Pipeline::kBias, Pipeline::kComplex, std::is_same_v<Pipeline, Dropout<float>>,
                           Pipeline::kGradient == Gradient::kAffine};
  return facts;
}

// The operation that is given its state.
template <class Pipeline>
std::string apply_name() {
  return facts<Pipeline>().name + (Pipeline::kRole == Role::kDerivative ? "" : "_apply");
}

// The tensors that the operation takes before its state.
template <class Pipeline>
constexpr int kTensorCount = Pipeline::kInputs - (Pipeline::kHalves ? 1 : 0);

// Whether the operation that is given its state returns two tensors.
template <class Pipeline>
constexpr bool kReturnsPair = (Pipeline::kOutputs == 2 && !Pipeline::kHalves) || Pipeline::kSummed;

template <class Family, template <class> class Pipeline>
void register_pipeline(torch::Library& m) {
  using P = Pipeline<float>;
  if constexpr (P::kRole != Role::kInternal) {
    using Operations = typename Family::template Of<Pipeline>;
    if constexpr (Family::kFunctional) {
      m.impl(apply_name<P>().c_str(), Operations::apply);
      if constexpr (P::kRole == Role::kOperation) m.impl(facts<P>().c_str(), Operations::random);
    }
    if constexpr (P::kInPlace) {
      m.impl((facts<P>().name + "_").c_str(), Operations::random_in_place);
      m.impl((apply_name<P>() + "_").c_str(), Operations::apply_in_place);
    }
  }
}

template <class Family>
void register_pipelines(torch::Library& m) {
  OperationTable::each([&](auto row) { register_pipeline<Family, decltype(row)::template Pipeline>(m); });
}

}  // namespace fused_dropout

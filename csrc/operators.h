// The operations as the dispatcher knows them: to be called again, by their derivatives and from key to key.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

namespace fused_dropout {

using MaskStrides = at::OptionalSymIntArrayRef;

// Of operations with so many input tensors, and one output or two.
template <int kInputs, int kOutputs = 1, class = std::make_index_sequence<kInputs>>
struct Signatures;

template <int kInputs, int kOutputs, size_t... I>
struct Signatures<kInputs, kOutputs, std::index_sequence<I...>> {
  template <size_t>
  using Input = const at::Tensor&;
  using OptionalTensor = std::optional<at::Tensor>;

  using Output = std::conditional_t<kOutputs == 2, std::tuple<at::Tensor, at::Tensor>, at::Tensor>;
  using Apply = Output(Input<I>..., const at::Tensor&, double, const OptionalTensor&, int64_t, MaskStrides, c10::SymInt,
                       MaskStrides);
  using Random = std::tuple<at::Tensor, at::Tensor>(Input<I>..., double, const OptionalTensor&, int64_t, MaskStrides,
                                                    c10::SymInt, MaskStrides, std::optional<at::Generator>,
                                                    const OptionalTensor&);
  using ApplyInPlace = void(at::Tensor&, const at::Tensor&, double, const OptionalTensor&, int64_t, MaskStrides,
                            c10::SymInt, MaskStrides);
  using RandomInPlace = at::Tensor(at::Tensor&, double, const OptionalTensor&, int64_t, MaskStrides, c10::SymInt,
                                   MaskStrides, std::optional<at::Generator>, const OptionalTensor&);
};

template <class Signature>
c10::TypedOperatorHandle<Signature> find(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("fused_dropout::" + name).c_str(), "").typed<Signature>();
}

}  // namespace fused_dropout

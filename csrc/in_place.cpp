// In place: what PyTorch has to be told about operations that write to their argument.
//
// It finds out by itself only about operations that return what they write to, and these return their state, or
// nothing.
#include <ATen/FunctionalTensorWrapper.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include "elementwise_ops.h"
#include "operators.h"

namespace fused_dropout {
namespace {

// Below autograd: the version of a tensor that is written to goes up by one. An inference tensor that is met outside of
// inference mode has no version; PyTorch's own check refuses it, asked before anything is drawn or written.
class CountVersion {
 public:
  explicit CountVersion(Tensor& self) : self_(self) {
    if (self.is_inference()) torch::autograd::increment_version(self);
  }
  Tensor& target() { return self_; }
  static c10::DispatchKeySet below(c10::DispatchKeySet keys) { return keys & c10::after_ADInplaceOrView_keyset; }
  void written() { torch::autograd::increment_version(self_); }

 private:
  Tensor& self_;
  at::AutoDispatchBelowADInplaceOrView guard_;
};

// A view whose numbers are those of its memory conjugated, or negated: computed on a copy.
class Resolve {
 public:
  explicit Resolve(Tensor& self) : self_(self), resolved_(self.resolve_conj().resolve_neg()) {}
  Tensor& target() { return resolved_; }
  static c10::DispatchKeySet below(c10::DispatchKeySet keys) {
    return keys.remove(c10::DispatchKey::Conjugate).remove(c10::DispatchKey::Negative);
  }
  void written() { self_.copy_(resolved_); }

 private:
  Tensor& self_;
  Tensor resolved_;
};

// An operation, with a policy around it.
template <class Policy, class Pipeline, class Signature>
struct Write;

template <class Policy, class Pipeline, class Result, class... Args>
struct Write<Policy, Pipeline, Result(Tensor&, Args...)> {
  static Result call(c10::DispatchKeySet keys, Tensor& self, Args... args) {
    constexpr bool kApply = std::is_void_v<Result>;
    static const auto op = find<Result(Tensor&, Args...)>(facts<Pipeline>().name + (kApply ? "_apply_" : "_"));
    Policy policy(self);
    if constexpr (kApply) {
      op.redispatch(Policy::below(keys), policy.target(), args...);
      policy.written();
    } else {
      Result state = op.redispatch(Policy::below(keys), policy.target(), args...);
      policy.written();
      return state;
    }
  }
};

template <class Policy>
struct InPlaceFamily {
  static constexpr bool kFunctional = false;
  template <template <class> class Pipeline>
  struct Of {
    static constexpr auto random_in_place = &Write<Policy, Pipeline<float>, Signatures<1>::RandomInPlace>::call;
    static constexpr auto apply_in_place = &Write<Policy, Pipeline<float>, Signatures<1>::ApplyInPlace>::call;
  };
};

namespace functional = at::functionalization::impl;

// An argument below functionalization: a tensor that has been replaced, by its replacement.
template <class T>
T below_functionalization(const T& argument) {
  if constexpr (std::is_same_v<T, Tensor> || std::is_same_v<T, OptionalTensor>) {
    functional::sync(argument);
    return functional::from_functional_tensor(argument, /*assert_functional=*/false);
  } else {
    return argument;
  }
}

// What torch.func.functionalize makes of a write: a new tensor in the argument's place.
template <class Pipeline, class InPlace, class Functional>
struct Functionalize;

template <class Pipeline, class Result, class Output, class... Args>
struct Functionalize<Pipeline, Result(Tensor&, Args...), Output(const Tensor&, Args...)> {
  static Result call(Tensor& self, Args... args) {
    constexpr bool kApply = std::is_void_v<Result>;
    static const auto op = find<Output(const Tensor&, Args...)>(facts<Pipeline>().name + (kApply ? "_apply" : ""));
    const Output output = [&] {
      const at::AutoDispatchSkipFunctionalize guard;
      return op.call(below_functionalization(self), below_functionalization<std::decay_t<Args>>(args)...);
    }();
    if constexpr (kApply) {
      replace(self, output);
    } else {
      replace(self, std::get<0>(output));
      return functional::to_functional_tensor(std::get<1>(output));
    }
  }

  static void replace(Tensor& self, const Tensor& by) {
    functional::replace_(self, by);
    functional::commit_update(self);
    functional::sync(self);
  }
};

struct FunctionalizeFamily {
  static constexpr bool kFunctional = false;
  template <template <class> class Pipeline>
  struct Of {
    using S = Signatures<1>;
    static constexpr auto random_in_place = &Functionalize<Pipeline<float>, S::RandomInPlace, S::Random>::call;
    static constexpr auto apply_in_place = &Functionalize<Pipeline<float>, S::ApplyInPlace, S::Apply>::call;
  };
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, ADInplaceOrView, m) { register_pipelines<InPlaceFamily<CountVersion>>(m); }
TORCH_LIBRARY_IMPL(fused_dropout, Conjugate, m) { register_pipelines<InPlaceFamily<Resolve>>(m); }
TORCH_LIBRARY_IMPL(fused_dropout, Negative, m) { register_pipelines<InPlaceFamily<Resolve>>(m); }
TORCH_LIBRARY_IMPL(fused_dropout, Functionalize, m) { register_pipelines<FunctionalizeFamily>(m); }

}  // namespace fused_dropout

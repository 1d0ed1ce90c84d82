// The graph node of every operation: it holds what the derivative needs, and knows compiled autograd.
//
// Built by hand and not by torch::autograd::Function, which refuses functorch's transforms and gives forward mode a
// silent zero.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "core/layout.h"
#include "operators.h"

namespace fused_dropout {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::CompiledNodeArgs;
using torch::autograd::SavedVariable;
using torch::autograd::SwapSavedVariables;
using torch::autograd::variable_list;

// The arguments that every operation ends with, owned.
struct Map {
  double p;
  OptionalTensor p_tensor;
  int64_t gain;
  std::optional<std::vector<c10::SymInt>> mask_strides;
  c10::SymInt mask_base;
  std::optional<std::vector<c10::SymInt>> block;

  // A pure operation of some tensors by this map, with a gain that may be another.
  template <class Op, class... Tensors>
  auto apply(const Op& op, const Tensor& state, int64_t gain, const Tensors&... tensors) const {
    return op.call(tensors..., state, p, p_tensor, gain, mask_strides ? MaskStrides(*mask_strides) : MaskStrides(),
                   mask_base, block ? MaskStrides(*block) : MaskStrides());
  }
};

inline std::optional<std::vector<c10::SymInt>> owned(MaskStrides sizes) {
  return sizes ? std::optional(sizes->vec()) : std::nullopt;
}

// What a call leaves for its derivative: the tensors that the pipeline asks for, its state and its map.
struct Call {
  variable_list saved;
  Tensor state;
  Map map;
};

// The gradients that are wanted, one for each input; the others stay undefined.
using Gradients = variable_list (*)(const Tensor& grad, const Call& call, const std::vector<bool>& wanted);

struct FusedDropoutBackward final : torch::autograd::Node {
  void save(Gradients gradients, Call call) {
    gradients_ = gradients;
    tensors_[0] = SavedVariable(call.state, false);
    tensors_[1] = SavedVariable(std::exchange(call.map.p_tensor, std::nullopt), false);
    for (size_t k = 0; k < call.saved.size(); ++k) tensors_[kOthers + k] = SavedVariable(call.saved[k], false);
    map_ = std::move(call.map);
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    Call call{{}, {}, map_};
    for (size_t k = 0; k < tensors_.size(); ++k) add(call, k, unpacked(tensors_[k]));
    return gradients(gradients_, grads[0], call, wanted());
  }

  // For compiled autograd, which traces backward passes: what its graph depends on, and `apply` as a function of that.
  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<int64_t>(gradients_));
    for (const SavedVariable& x : tensors_) args.collect(x, /*is_output=*/false);
    each_number(map_, [&](const auto& x) { args.collect(x); });
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& saved) override {
    for (SavedVariable& x : tensors_) saved.before(x);
    each_number(map_, [&](auto& x) { saved.before(x); });
    torch::dynamo::autograd::PackedArgs packed;
    packed.pack(reinterpret_cast<int64_t>(gradients_));
    packed.pack(wanted());
    for (const SavedVariable& x : tensors_) packed.pack(unpacked(x));
    each_number(map_, [&](const auto& x) { packed.pack(x); });
    std::vector<at::TypePtr> types;
    for (const at::IValue& value : packed.vec()) {
      types.push_back(value.isTensor() ? at::TypePtr(at::TensorType::get()) : value.type());
    }
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const std::string function = compiler->bind_function(saved.get_py_compiler(), name(), &apply_packed, types,
                                                         /*is_custom_function=*/true, /*is_traceable=*/true);
    variable_list grad_inputs = compiler->call_function(
        saved.get_py_compiler(), "apply_functional", function, grads, packed.vec(),
        torch::dynamo::autograd::IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges())));
    for (SavedVariable& x : tensors_) saved.after(x);
    each_number(map_, [&](auto& x) { saved.after(x); });
    return grad_inputs;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& x : tensors_) x.reset_data();
  }

  std::string name() const override { return "FusedDropoutBackward"; }

 private:
  static constexpr size_t kOthers = 2;  // behind the state and p

  static variable_list gradients(Gradients gradients, const Tensor& grad, const Call& call,
                                 const std::vector<bool>& wanted) {
    return grad.defined() ? gradients(grad, call, wanted) : variable_list(wanted.size());
  }

  static variable_list apply_packed(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    const auto function = reinterpret_cast<Gradients>(packed.unpack<int64_t>());
    const auto wanted = packed.unpack<std::vector<bool>>();
    Call call;
    for (size_t k = 0; k < std::tuple_size_v<decltype(tensors_)>; ++k) add(call, k, packed.unpack<OptionalTensor>());
    each_number(call.map, [&](auto& x) { x = packed.unpack<std::decay_t<decltype(x)>>(); });
    return gradients(function, grads[0], call, wanted);
  }

  static void add(Call& call, size_t k, OptionalTensor x) {
    if (k == 0) {
      call.state = *x;
    } else if (k == 1) {
      call.map.p_tensor = std::move(x);
    } else if (x) {
      call.saved.push_back(*std::move(x));
    }
  }

  template <class AnyMap, class Visit>
  static void each_number(AnyMap& map, const Visit& visit) {
    visit(map.p);
    visit(map.gain);
    visit(map.mask_strides);
    visit(map.mask_base);
    visit(map.block);
  }

  static OptionalTensor unpacked(const SavedVariable& saved) {
    Tensor tensor = saved.unpack();
    return tensor.defined() ? OptionalTensor(std::move(tensor)) : std::nullopt;
  }

  std::vector<bool> wanted() const {
    std::vector<bool> wanted;
    for (size_t k = 0; k < num_outputs(); ++k) wanted.push_back(task_should_compute_output(k));
    return wanted;
  }

  std::array<SavedVariable, kOthers + kMaxInputs> tensors_;
  Gradients gradients_ = nullptr;
  Map map_;
};

// Nodes are shared_ptr up to PyTorch 2.12 and intrusive_ptr from 2.13 on.
template <class Node, class Pointer = decltype(torch::autograd::Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::shared_ptr<Node>(new Node(), [](Node* node) { deleteNode(node); });
  } else {
    return c10::make_intrusive<Node>();
  }
}
using NodePointer = decltype(make_node<FusedDropoutBackward>());

}  // namespace fused_dropout

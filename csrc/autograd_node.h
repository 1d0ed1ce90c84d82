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
  static constexpr const char* kNode = "FusedDropoutBackward";
  double p;
  OptionalTensor p_tensor;
  int64_t gain;
  std::optional<std::vector<c10::SymInt>> mask_strides;
  c10::SymInt mask_base;
  std::optional<std::vector<c10::SymInt>> block;
  bool bias_is_row = false;  // whether its gradient is the sum over the rows of the input's

  // A pure operation of some tensors by this map, with a gain that may be another.
  template <class Op, class... Tensors>
  auto apply(const Op& op, const Tensor& state, int64_t gain, const Tensors&... tensors) const {
    return op.call(tensors..., state, p, p_tensor, gain, mask_strides ? MaskStrides(*mask_strides) : MaskStrides(),
                   mask_base, block ? MaskStrides(*block) : MaskStrides());
  }
};

template <class AnyMap, class Visit, class = std::enable_if_t<std::is_same_v<std::remove_const_t<AnyMap>, Map>>>
void each_number(AnyMap& map, const Visit& visit) {
  visit(map.p);
  visit(map.gain);
  visit(map.mask_strides);
  visit(map.mask_base);
  visit(map.block);
  visit(map.bias_is_row);
}

inline std::optional<std::vector<c10::SymInt>> owned(MaskStrides sizes) {
  return sizes ? std::optional(sizes->vec()) : std::nullopt;
}

// A node that keeps so many tensors, of which some may be undefined, and numbers: a struct that shows each of its own
// to `each_number` (found by its type).
template <class Numbers, size_t kTensors>
struct FusedBackward final : torch::autograd::Node {
  using Tensors = std::array<Tensor, kTensors>;
  // The gradients that are wanted, one for each input; the others stay undefined. So do all where there is no gradient.
  using Gradients = variable_list (*)(const variable_list& grads, const Tensors& tensors, const Numbers& numbers,
                                      const std::vector<bool>& wanted);

  // `first_is_output`: the first tensor is what the node belongs to, and its gradient is a gradient of the inputs.
  void save(Gradients gradients, const Tensors& tensors, Numbers numbers, bool first_is_output = false) {
    gradients_ = gradients;
    first_is_output_ = first_is_output;
    for (size_t k = 0; k < kTensors; ++k) {
      if (tensors[k].defined()) tensors_[k] = SavedVariable(tensors[k], is_output(k));
    }
    numbers_ = std::move(numbers);
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return gradients_(grads, unpacked(), numbers_, wanted());
  }

  // For compiled autograd, which traces backward passes: what its graph depends on, and `apply` as a function of that.
  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<int64_t>(gradients_));
    for (size_t k = 0; k < kTensors; ++k) args.collect(tensors_[k], is_output(k));
    each_number(numbers_, [&](const auto& x) { args.collect(x); });
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& saved) override {
    for (SavedVariable& x : tensors_) saved.before(x);
    each_number(numbers_, [&](auto& x) { saved.before(x); });
    torch::dynamo::autograd::PackedArgs packed;
    packed.pack(reinterpret_cast<int64_t>(gradients_));
    packed.pack(wanted());
    for (const Tensor& x : unpacked()) packed.pack(x.defined() ? OptionalTensor(x) : std::nullopt);
    each_number(numbers_, [&](const auto& x) { packed.pack(x); });
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
    each_number(numbers_, [&](auto& x) { saved.after(x); });
    return grad_inputs;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& x : tensors_) x.reset_data();
  }

  std::string name() const override { return Numbers::kNode; }

 private:
  using Pointer = decltype(torch::autograd::Edge::function);

  static variable_list apply_packed(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    const auto gradients = reinterpret_cast<Gradients>(packed.unpack<int64_t>());
    const auto wanted = packed.unpack<std::vector<bool>>();
    Tensors tensors;
    for (Tensor& x : tensors) x = packed.unpack<OptionalTensor>().value_or(Tensor());
    Numbers numbers;
    each_number(numbers, [&](auto& x) { x = packed.unpack<std::decay_t<decltype(x)>>(); });
    return gradients(grads, tensors, numbers, wanted);
  }

  bool is_output(size_t k) const { return k == 0 && first_is_output_; }

  Tensors unpacked() {
    Tensors tensors;
    for (size_t k = 0; k < kTensors; ++k) tensors[k] = is_output(k) ? tensors_[k].unpack(self()) : tensors_[k].unpack();
    return tensors;
  }

  // What a saved output asks for, to belong to this node again. (A shared_ptr up to PyTorch 2.12.)
  template <class P = Pointer, class Node = torch::autograd::Node>
  P self() {
    if constexpr (std::is_same_v<P, std::shared_ptr<Node>>) {
      return static_cast<Node*>(this)->shared_from_this();
    } else {
      return P::unsafe_reclaim_from_nonowning(this);
    }
  }

  std::vector<bool> wanted() const {
    std::vector<bool> wanted;
    for (size_t k = 0; k < num_outputs(); ++k) wanted.push_back(task_should_compute_output(k));
    return wanted;
  }

  std::array<SavedVariable, kTensors> tensors_;
  bool first_is_output_ = false;
  Gradients gradients_ = nullptr;
  Numbers numbers_;
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

// The node of a call that is to be differentiated, or null.
template <class Node>
decltype(make_node<Node>()) node_for(at::ArrayRef<Tensor> inputs) {
  bool any = false;
  for (const Tensor& x : inputs) any = any || (x.defined() && x.requires_grad());
  if (!any || !c10::GradMode::is_enabled()) return nullptr;
  auto node = make_node<Node>();
  for (const Tensor& x : inputs) {
    node->add_next_edge(x.defined() ? torch::autograd::impl::gradient_edge(x) : torch::autograd::Edge());
  }
  return node;
}

inline bool any_tangent(at::ArrayRef<Tensor> inputs) {
  for (const Tensor& x : inputs) {
    if (x.defined() && x._fw_grad(0).defined()) return true;
  }
  return false;
}

// Whether what is made of them will be differentiated.
inline bool differentiated(at::ArrayRef<Tensor> inputs) {
  bool any = any_tangent(inputs);
  for (const Tensor& x : inputs) any = any || (x.defined() && x.requires_grad() && c10::GradMode::is_enabled());
  return any;
}

// p decides which elements there are; there is no derivative, and zero would be a silent lie.
inline void check_p(const std::string& name, const OptionalTensor& p_tensor) {
  if (!p_tensor) return;
  TORCH_CHECK(!(p_tensor->requires_grad() && c10::GradMode::is_enabled()) && !p_tensor->_fw_grad(0).defined(), name,
              ": p is not differentiable; pass p.detach()");
}

}  // namespace fused_dropout

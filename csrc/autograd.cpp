// Derivatives, as PyTorch writes its own: a graph node that holds the state, and a tangent for forward mode.
//
// Every pipeline is affine in its inputs, and says for each what its derivative is (core/pipelines.h): a pure operation
// of the gradient and the same state, or the identity. Those operations are linear and their own derivatives, so double
// backward and forward over reverse need nothing more. Nothing is saved but the state's 16 bytes (and p, where it is a
// tensor).
//
// Nodes are built by hand and not by torch::autograd::Function, which refuses functorch's transforms and gives forward
// mode a silent zero.
#include <ATen/ops/add.h>
#include <ATen/ops/clone.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <memory>
#include <utility>
#include <vector>

#include "elementwise_ops.h"
#include "operators.h"

namespace fused_dropout {
namespace {

using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// The arguments that every operation ends with, owned.
struct Map {
  double p;
  OptionalTensor p_tensor;
  int64_t gain;
  std::optional<std::vector<c10::SymInt>> mask_strides;
  c10::SymInt mask_base;
  std::optional<std::vector<c10::SymInt>> block;
};

std::optional<std::vector<c10::SymInt>> owned(MaskStrides sizes) {
  return sizes ? std::optional(sizes->vec()) : std::nullopt;
}

using Unary = Signatures<1>;

// What the derivative of a call is made of, besides the state.
struct Derivatives {
  Map map;
  fused_dropout::Derivative (*of)(int input, Gain gain);

  Tensor operator()(int input, const Tensor& x, const Tensor& state, const OptionalTensor& p_tensor) const {
    static const auto dropout = find<Unary::Apply>("dropout_apply"), dropped = find<Unary::Apply>("dropped_apply"),
                      gaussian = find<Unary::Apply>("gaussian_dropout_apply");
    const fused_dropout::Derivative derivative = of(input, static_cast<Gain>(map.gain));
    if (derivative.map == Linear::kIdentity) return x;
    const auto& op = derivative.map == Linear::kDropped           ? dropped
                     : derivative.map == Linear::kGaussianDropout ? gaussian
                                                                  : dropout;
    return op.call(x, state, map.p, p_tensor, static_cast<int64_t>(derivative.gain),
                   map.mask_strides ? MaskStrides(*map.mask_strides) : MaskStrides(), map.mask_base,
                   map.block ? MaskStrides(*map.block) : MaskStrides());
  }
};

struct FusedDropoutBackward final : torch::autograd::Node {
  void save(const Tensor& state, Derivatives derivatives) {
    state_ = SavedVariable(state, false);
    p_tensor_ = SavedVariable(std::exchange(derivatives.map.p_tensor, std::nullopt), false);
    derivatives_ = std::move(derivatives);
  }

  variable_list apply(variable_list&& grads) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    variable_list grad_inputs(num_outputs());
    const Tensor& grad = grads[0];
    if (!grad.defined()) return grad_inputs;
    const Tensor state = state_.unpack(), p_tensor = p_tensor_.unpack();
    const OptionalTensor p = p_tensor.defined() ? OptionalTensor(p_tensor) : std::nullopt;
    for (size_t k = 0; k < grad_inputs.size(); ++k) {
      if (task_should_compute_output(k)) grad_inputs[k] = derivatives_(static_cast<int>(k), grad, state, p);
    }
    return grad_inputs;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_.reset_data();
    p_tensor_.reset_data();
  }

  std::string name() const override { return "FusedDropoutBackward"; }

 private:
  SavedVariable state_, p_tensor_;
  Derivatives derivatives_;
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

NodePointer node_for(at::ArrayRef<Tensor> inputs) {
  bool any = false;
  for (const Tensor& x : inputs) any = any || x.requires_grad();
  if (!any || !c10::GradMode::is_enabled()) return nullptr;
  NodePointer node = make_node<FusedDropoutBackward>();
  for (const Tensor& x : inputs) node->add_next_edge(torch::autograd::impl::gradient_edge(x));
  return node;
}

bool any_tangent(at::ArrayRef<Tensor> inputs) {
  for (const Tensor& x : inputs) {
    if (x._fw_grad(0).defined()) return true;
  }
  return false;
}

// p decides which elements there are; there is no derivative, and zero would be a silent lie.
void check_p(const std::string& name, const OptionalTensor& p_tensor) {
  if (!p_tensor) return;
  TORCH_CHECK(!(p_tensor->requires_grad() && c10::GradMode::is_enabled()) && !p_tensor->_fw_grad(0).defined(), name,
              ": p is not differentiable; pass p.detach()");
}

// The output's tangent, where an input has one.
Tensor tangent(at::ArrayRef<Tensor> inputs, const Tensor& state, const Derivatives& derivatives) {
  Tensor sum;
  for (size_t k = 0; k < inputs.size(); ++k) {
    const Tensor& t = inputs[k]._fw_grad(0);
    if (!t.defined()) continue;
    const Tensor part = derivatives(static_cast<int>(k), t, state, derivatives.map.p_tensor);
    sum = sum.defined() ? at::add(sum, part) : part.is_same(t) ? at::clone(t) : part;
  }
  return sum;
}

// Attaches the graph node and the tangent to `output`, which in place is the input itself.
void record(const Tensor& output, at::ArrayRef<Tensor> inputs, const Tensor& state, const NodePointer& node,
            Derivatives derivatives, bool in_place) {
  Tensor t = tangent(inputs, state, derivatives);
  if (in_place && t.defined())
    t = inputs[0]._fw_grad(0).copy_(t);  // PyTorch wants the input's own tangent, written over
  if (node) {
    node->save(state, std::move(derivatives));
    if (in_place) {
      torch::autograd::rebase_history(output, node);
    } else {
      torch::autograd::set_history(output, node);
    }
  }
  if (t.defined()) output._set_fw_grad(t, 0, in_place);
}

template <template <class> class Pipeline, class Inputs = std::make_index_sequence<Pipeline<float>::kInputs>>
struct Autograd;

template <template <class> class Pipeline, size_t... I>
struct Autograd<Pipeline, std::index_sequence<I...>> {
  static std::string name() { return pipeline_name(Pipeline<float>::kId); }

  static Derivatives derivatives(double p, const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                                 const c10::SymInt& mask_base, MaskStrides block) {
    return {{p, p_tensor, gain, owned(mask_strides), mask_base, owned(block)}, Pipeline<float>::derivative};
  }

  static Pair random(c10::DispatchKeySet keys, TensorRef<I>... inputs, double p, const OptionalTensor& p_tensor,
                     int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base, MaskStrides block,
                     OptionalGenerator generator, const OptionalTensor& call_id) {
    static const auto op = find<typename Signatures<sizeof...(I)>::Random>(name());
    check_p(name(), p_tensor);
    const Tensor all[] = {inputs...};
    const NodePointer node = node_for(all);
    Pair result = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, inputs..., p, p_tensor, gain, mask_strides, mask_base,
                           block, std::move(generator), call_id);
    }();
    if (node || any_tangent(all)) {
      record(std::get<0>(result), all, std::get<1>(result), node,
             derivatives(p, p_tensor, gain, mask_strides, mask_base, block), false);
    }
    return result;
  }

  static Tensor apply(c10::DispatchKeySet keys, TensorRef<I>... inputs, const Tensor& state, double p,
                      const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base,
                      MaskStrides block) {
    static const auto op = find<typename Signatures<sizeof...(I)>::Apply>(name() + "_apply");
    check_p(name(), p_tensor);
    const Tensor all[] = {inputs...};
    const NodePointer node = node_for(all);
    Tensor output = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, inputs..., state, p, p_tensor, gain, mask_strides,
                           mask_base, block);
    }();
    if (node || any_tangent(all)) {
      record(output, all, state, node, derivatives(p, p_tensor, gain, mask_strides, mask_base, block), false);
    }
    return output;
  }

  static Tensor random_in_place(c10::DispatchKeySet keys, Tensor& self, double p, const OptionalTensor& p_tensor,
                                int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base, MaskStrides block,
                                OptionalGenerator generator, const OptionalTensor& call_id) {
    static const auto op = find<Unary::RandomInPlace>(name() + "_");
    check_p(name(), p_tensor);
    const NodePointer node = node_for({self});
    torch::autograd::check_inplace(self, node != nullptr);
    Tensor state = [&] {
      const at::AutoDispatchBelowAutograd guard;
      return op.redispatch(keys & c10::after_autograd_keyset, self, p, p_tensor, gain, mask_strides, mask_base, block,
                           std::move(generator), call_id);
    }();
    record(self, {self}, state, node, derivatives(p, p_tensor, gain, mask_strides, mask_base, block), true);
    return state;
  }

  static void apply_in_place(c10::DispatchKeySet keys, Tensor& self, const Tensor& state, double p,
                             const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                             c10::SymInt mask_base, MaskStrides block) {
    static const auto op = find<Unary::ApplyInPlace>(name() + "_apply_");
    check_p(name(), p_tensor);
    const NodePointer node = node_for({self});
    torch::autograd::check_inplace(self, node != nullptr);
    {
      const at::AutoDispatchBelowAutograd guard;
      op.redispatch(keys & c10::after_autograd_keyset, self, state, p, p_tensor, gain, mask_strides, mask_base, block);
    }
    record(self, {self}, state, node, derivatives(p, p_tensor, gain, mask_strides, mask_base, block), true);
  }
};

struct AutogradFamily {
  static constexpr bool kFunctional = true;
  template <template <class> class Pipeline>
  using Of = Autograd<Pipeline>;
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) { register_pipelines<AutogradFamily>(m); }

}  // namespace fused_dropout

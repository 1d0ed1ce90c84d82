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
#include <ATen/ops/expand.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <memory>
#include <utility>
#include <vector>

#include "elementwise_ops.h"
#include "operators.h"

namespace fused_dropout {
namespace {

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
};

std::optional<std::vector<c10::SymInt>> owned(MaskStrides sizes) {
  return sizes ? std::optional(sizes->vec()) : std::nullopt;
}

using Unary = Signatures<1>;

// What the derivative of a call is made of, besides the state.
struct Derivatives {
  Map map;
  fused_dropout::Derivative (*of)(int input, Gain gain);

  bool same(int one, int other) const {
    const auto a = of(one, static_cast<Gain>(map.gain)), b = of(other, static_cast<Gain>(map.gain));
    return a.map == b.map && a.gain == b.gain;
  }

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
    return gradients(grads[0], unpacked(state_), unpacked(p_tensor_), derivatives_, wanted());
  }

  // For compiled autograd, which traces backward passes: what its graph depends on, and `apply` as a function of that.
  void compiled_args(CompiledNodeArgs& args) const override {
    args.collect(reinterpret_cast<int64_t>(derivatives_.of));
    each_saved(*this, [&](const auto& x) {
      if constexpr (std::is_same_v<decltype(x), const SavedVariable&>) {
        args.collect(x, /*is_output=*/false);
      } else {
        args.collect(x);
      }
    });
  }

  variable_list apply_with_saved(const variable_list& grads, SwapSavedVariables& saved) override {
    each_saved(*this, [&](auto& x) { saved.before(x); });
    torch::dynamo::autograd::PackedArgs packed;
    packed.pack(reinterpret_cast<int64_t>(derivatives_.of));
    packed.pack(wanted());
    each_saved(*this, [&](const auto& x) {
      if constexpr (std::is_same_v<decltype(x), const SavedVariable&>) {
        packed.pack(unpacked(x));
      } else {
        packed.pack(x);
      }
    });
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
    each_saved(*this, [&](auto& x) { saved.after(x); });
    return grad_inputs;
  }

  void release_variables() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    state_.reset_data();
    p_tensor_.reset_data();
  }

  std::string name() const override { return "FusedDropoutBackward"; }

 private:
  static variable_list gradients(const Tensor& grad, const OptionalTensor& state, const OptionalTensor& p_tensor,
                                 const Derivatives& derivatives, const std::vector<bool>& wanted) {
    variable_list grad_inputs(wanted.size());
    int known = -1;  // an input whose gradient has been computed; a bias has the same, which the engine sums up
    for (size_t k = 0; k < wanted.size() && grad.defined(); ++k) {
      if (!wanted[k]) continue;
      const int input = static_cast<int>(k);
      const bool again = known >= 0 && derivatives.same(known, input);
      grad_inputs[k] = again ? grad_inputs[known] : derivatives(input, grad, *state, p_tensor);
      known = input;
    }
    return grad_inputs;
  }

  static variable_list apply_packed(const variable_list& grads, const std::vector<at::IValue>& values) {
    torch::dynamo::autograd::PackedArgs packed(values);
    using Sizes = std::optional<std::vector<c10::SymInt>>;
    Derivatives derivatives;
    derivatives.of = reinterpret_cast<decltype(derivatives.of)>(packed.unpack<int64_t>());
    const auto wanted = packed.unpack<std::vector<bool>>();
    const auto state = packed.unpack<OptionalTensor>(), p_tensor = packed.unpack<OptionalTensor>();
    Map& map = derivatives.map;
    map.p = packed.unpack<double>();
    map.gain = packed.unpack<int64_t>();
    map.mask_strides = packed.unpack<Sizes>();
    map.mask_base = packed.unpack<c10::SymInt>();
    map.block = packed.unpack<Sizes>();
    return gradients(grads[0], state, p_tensor, derivatives, wanted);
  }

  template <class Self, class Visit>
  static void each_saved(Self& self, const Visit& visit) {
    auto& map = self.derivatives_.map;
    visit(self.state_);
    visit(self.p_tensor_);
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
    Tensor t = inputs[k]._fw_grad(0);
    if (!t.defined()) continue;
    if (t.dim() != inputs[0].dim() || t.sym_sizes() != inputs[0].sym_sizes()) {  // of a bias
      t = t.expand_symint(inputs[0].sym_sizes());
    }
    const Tensor part = derivatives(static_cast<int>(k), t, state, derivatives.map.p_tensor);
    sum = sum.defined() ? at::add(sum, part) : part.is_same(t) ? at::clone(t) : part;
  }
  return sum;
}

// Attaches the graph node and the tangent to `output`, which in place is the input itself.
void record(const Tensor& output, at::ArrayRef<Tensor> inputs, const Tensor& state, const NodePointer& node,
            Derivatives derivatives, bool in_place) {
  Tensor t = tangent(inputs, state, derivatives);
  // In place PyTorch wants the input's own tangent, written over.
  if (in_place && t.defined()) t = inputs[0]._fw_grad(0).copy_(t);
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

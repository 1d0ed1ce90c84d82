// Derivatives, as PyTorch writes its own: a graph node (autograd_node.h), and a tangent for forward mode.
//
// An affine pipeline says for each input what its derivative is (core/pipelines.h): a pure operation of the gradient
// and the same state, or the identity. Those operations are linear and their own derivatives, so double backward and
// forward over reverse need nothing more, and nothing is saved but the state's 16 bytes (and p, where it is a tensor).
// Another one has a Backward, a pipeline of the gradient and of what is saved, whose own derivative is composed of
// PyTorch's operations (composed.h).
#include <ATen/ops/add.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/expand.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>

#include "autograd_node.h"
#include "composed.h"
#include "elementwise_ops.h"

namespace fused_dropout {
namespace {

using Unary = Signatures<1>;

// What a call leaves for its derivative: the tensors that the pipeline asks for, its state and its map.
struct Call {
  variable_list saved;
  Tensor state;
  Map map;
};
using Node = FusedBackward<Map, 2 + kMaxInputs>;  // its state, p, and what is saved
using NodePointer = decltype(make_node<Node>());

// Whether both gradients are wanted that an operation AndSum makes.
template <class Pipeline>
bool sums_bias(const Call& call, const std::vector<bool>& wanted) {
  return call.map.bias_is_row && wanted[0] && wanted[Pipeline::kBias];
}

// An affine pipeline.
template <class Pipeline>
struct Affine {
  static Derivative derivative(const Call& call, size_t input) {
    return Pipeline::derivative(static_cast<int>(input), static_cast<Gain>(call.map.gain));
  }

  static bool same(const Call& call, size_t one, size_t other) {
    const Derivative a = derivative(call, one), b = derivative(call, other);
    return a.map == b.map && a.gain == b.gain;
  }

  // The derivative by an input, of a gradient or a tangent.
  static Tensor map(const Call& call, size_t input, const Tensor& x) {
    static const auto dropout = find<Unary::Apply>("dropout_apply"), dropped = find<Unary::Apply>("dropped_apply"),
                      gaussian = find<Unary::Apply>("gaussian_dropout_apply");
    const Derivative d = derivative(call, input);
    const bool drops = d.map != Linear::kDropout || !drops_none(call.map.p, call.map.p_tensor);
    if (d.map == Linear::kIdentity || !drops) return x;
    const auto& op = d.map == Linear::kDropped ? dropped : d.map == Linear::kGaussianDropout ? gaussian : dropout;
    return call.map.apply(op, call.state, static_cast<int64_t>(d.gain), x);
  }

  static variable_list gradients(const Tensor& grad, const Call& call, const std::vector<bool>& wanted) {
    variable_list grad_inputs(wanted.size());
    if constexpr (Pipeline::kBias >= 0) {
      if (sums_bias<Pipeline>(call, wanted) && !drops_none(call.map.p, call.map.p_tensor)) {
        static const auto op = find<Signatures<1, 2>::Apply>(apply_name<AndSum<Dropout<float>>>());
        std::tie(grad_inputs[0], grad_inputs[Pipeline::kBias]) =
            call.map.apply(op, call.state, static_cast<int64_t>(derivative(call, 0).gain), grad);
      }
    }
    size_t known = wanted.size();  // an input whose gradient has been computed; a bias has the same, to be summed up
    for (size_t k = 0; k < wanted.size(); ++k) {
      if (!wanted[k] || grad_inputs[k].defined()) continue;
      grad_inputs[k] = known < k && same(call, known, k) ? grad_inputs[known] : map(call, k, grad);
      known = k;
    }
    return grad_inputs;
  }

  static Tensor tangent(const variable_list& tangents, const Call& call) {
    Tensor sum;
    for (size_t k = 0; k < tangents.size(); ++k) {
      if (!tangents[k].defined()) continue;
      const Tensor part = map(call, k, tangents[k]);
      sum = sum.defined() ? at::add(sum, part) : part.is_same(tangents[k]) ? at::clone(part) : part;
    }
    return sum;
  }
};

// A pipeline with a Backward, whose Jacobian is diagonal: a tangent goes the way of a gradient.
template <class Pipeline>
struct WithBackward {
  using Backward = typename Pipeline::Backward;
  static constexpr bool kTwo = Backward::kOutputs == 2;

  template <class Operation, size_t... I>
  static variable_list call_of(const Tensor& grad, const Call& call, std::index_sequence<I...>) {
    static const auto op =
        find<typename Signatures<sizeof...(I) + 1, kReturnsPair<Operation> ? 2 : 1>::Apply>(apply_name<Operation>());
    return listed(call.map.apply(op, call.state, call.map.gain, grad, call.saved[I]...));
  }
  template <class Operation = Backward>
  static variable_list backward(const Tensor& grad, const Call& call) {
    return call_of<Operation>(grad, call, std::make_index_sequence<kTensorCount<Operation> - 1>());
  }

  static variable_list gradients(const Tensor& grad, const Call& call, const std::vector<bool>& wanted) {
    if constexpr (Pipeline::kBias >= 0) {
      if (sums_bias<Pipeline>(call, wanted)) return backward<AndSum<Backward>>(grad, call);
    }
    const variable_list computed = backward(grad, call);
    variable_list grad_inputs(wanted.size());
    for (size_t k = 0; k < wanted.size(); ++k) {
      if (wanted[k]) grad_inputs[k] = computed[std::min(k, computed.size() - 1)];
    }
    return grad_inputs;
  }

  static Tensor tangent(const variable_list& tangents, const Call& call) {
    Tensor sum;
    const auto add = [&](const Tensor& part) { sum = sum.defined() ? at::add(sum, part) : part; };
    if constexpr (!kTwo) {
      for (const Tensor& t : tangents) {
        if (t.defined()) add(t);
      }
      return backward(sum, call)[0];
    } else if constexpr (Pipeline::kHalves) {
      const auto [first, second] = halves(tangents[0]);
      add(std::get<0>(halves(backward(first, call)[0])));
      add(std::get<1>(halves(backward(second, call)[0])));
    } else {
      for (size_t k = 0; k < tangents.size(); ++k) {
        if (tangents[k].defined()) add(backward(tangents[k], call)[k]);
      }
    }
    return sum;
  }

 private:
  static variable_list listed(const Tensor& one) { return {one}; }
  static variable_list listed(const Pair& two) { return {std::get<0>(two), std::get<1>(two)}; }
};

template <class Pipeline>
using Rules = std::conditional_t<Pipeline::kGradient == Gradient::kAffine, Affine<Pipeline>, WithBackward<Pipeline>>;

// The inputs' tangents, of their shape; undefined where there is none.
variable_list tangents_of(at::ArrayRef<Tensor> inputs) {
  variable_list tangents;
  for (const Tensor& x : inputs) {
    Tensor t = x._fw_grad(0);
    if (t.defined() && t.sym_sizes() != inputs[0].sym_sizes()) t = t.expand_symint(inputs[0].sym_sizes());  // a bias's
    tangents.push_back(t);
  }
  return tangents;
}

template <class Pipeline>
Tensor tangent(at::ArrayRef<Tensor> inputs, Call call) {
  for (Tensor& x : call.saved) x = x._fw_primal(0);  // a tangent must not have one itself
  return Rules<Pipeline>::tangent(tangents_of(inputs), call);
}

// What the node calls.
template <class Pipeline>
variable_list gradients(const variable_list& grads, const Node::Tensors& tensors, const Map& map,
                        const std::vector<bool>& wanted) {
  if (!grads[0].defined()) return variable_list(wanted.size());
  Call call{{}, tensors[0], map};
  if (tensors[1].defined()) call.map.p_tensor = tensors[1];
  for (size_t k = 2; k < tensors.size() && tensors[k].defined(); ++k) call.saved.push_back(tensors[k]);
  return Rules<Pipeline>::gradients(grads[0], call, wanted);
}

bool is_row(const Tensor& bias, const Tensor& input) {
  return bias.dim() == 1 && input.dim() > 0 && bias.sym_size(0) == input.sym_size(-1);
}

// Attaches the graph node and the tangent to `output`, which in place is the input itself.
template <class Pipeline>
void record(const Tensor& output, at::ArrayRef<Tensor> inputs, const Tensor& state, const NodePointer& node, Map map,
            bool in_place) {
  Call call{{}, state, std::move(map)};
  if constexpr (Pipeline::kBias >= 0) call.map.bias_is_row = is_row(inputs[Pipeline::kBias], inputs[0]);
  if (Pipeline::kGradient == Gradient::kOfInputs) call.saved = inputs.vec();
  if (Pipeline::kGradient == Gradient::kOfOutput) call.saved = {output.detach()};
  Tensor t = any_tangent(inputs) ? tangent<Pipeline>(inputs, call) : Tensor();
  // In place PyTorch wants the input's own tangent, written over.
  if (in_place && t.defined()) t = inputs[0]._fw_grad(0).copy_(t);
  if (node) {
    Node::Tensors tensors{call.state, call.map.p_tensor.value_or(Tensor())};
    std::copy(call.saved.begin(), call.saved.end(), tensors.begin() + 2);
    call.map.p_tensor.reset();
    node->save(&gradients<Pipeline>, tensors, std::move(call.map));
    if (in_place) {
      torch::autograd::rebase_history(output, node);
    } else {
      torch::autograd::set_history(output, node);
    }
  }
  if (t.defined()) output._set_fw_grad(t, 0, in_place);
}

template <template <class> class Pipeline, class Inputs = std::make_index_sequence<kTensorCount<Pipeline<float>>>>
struct Autograd;

template <template <class> class Pipeline, size_t... I>
struct Autograd<Pipeline, std::index_sequence<I...>> {
  using P = Pipeline<float>;

  static const std::string& name() { return facts<P>().name; }

  static Pair random(c10::DispatchKeySet keys, TensorRef<I>... inputs, double p, const OptionalTensor& p_tensor,
                     int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base, MaskStrides block,
                     OptionalGenerator generator, const OptionalTensor& call_id) {
    static const auto op = find<typename Signatures<sizeof...(I)>::Random>(name());
    check_p(name(), p_tensor);
    const Tensor all[] = {inputs...};
    const NodePointer node = node_for<Node>(all);
    Pair result = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, inputs..., p, p_tensor, gain, mask_strides, mask_base,
                           block, std::move(generator), call_id);
    }();
    if (node || any_tangent(all)) {
      record<P>(std::get<0>(result), all, std::get<1>(result), node,
                {p, p_tensor, gain, owned(mask_strides), mask_base, owned(block)}, false);
    }
    return result;
  }

  static Output<P> apply(c10::DispatchKeySet keys, TensorRef<I>... inputs, const Tensor& state, double p,
                         const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base,
                         MaskStrides block) {
    static const auto op = find<typename Signatures<sizeof...(I), kReturnsPair<P> ? 2 : 1>::Apply>(apply_name<P>());
    check_p(name(), p_tensor);
    const Tensor all[] = {inputs...};
    if constexpr (P::kGradient == Gradient::kComposed) {
      if (differentiated(all)) return composed<P>(all, state, {p, p_tensor, gain, owned(mask_strides), mask_base, {}});
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, inputs..., state, p, p_tensor, gain, mask_strides,
                           mask_base, block);
    } else {
      const NodePointer node = node_for<Node>(all);
      Tensor output = [&] {
        const at::AutoDispatchBelowADInplaceOrView guard;
        return op.redispatch(keys & c10::after_autograd_keyset, inputs..., state, p, p_tensor, gain, mask_strides,
                             mask_base, block);
      }();
      if (node || any_tangent(all)) {
        record<P>(output, all, state, node, {p, p_tensor, gain, owned(mask_strides), mask_base, owned(block)}, false);
      }
      return output;
    }
  }

  static Tensor random_in_place(c10::DispatchKeySet keys, Tensor& self, double p, const OptionalTensor& p_tensor,
                                int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base, MaskStrides block,
                                OptionalGenerator generator, const OptionalTensor& call_id) {
    static const auto op = find<Unary::RandomInPlace>(name() + "_");
    check_p(name(), p_tensor);
    const NodePointer node = node_for<Node>({self});
    torch::autograd::check_inplace(self, node != nullptr);
    Tensor state = [&] {
      const at::AutoDispatchBelowAutograd guard;
      return op.redispatch(keys & c10::after_autograd_keyset, self, p, p_tensor, gain, mask_strides, mask_base, block,
                           std::move(generator), call_id);
    }();
    record<P>(self, {self}, state, node, {p, p_tensor, gain, owned(mask_strides), mask_base, owned(block)}, true);
    return state;
  }

  static void apply_in_place(c10::DispatchKeySet keys, Tensor& self, const Tensor& state, double p,
                             const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                             c10::SymInt mask_base, MaskStrides block) {
    static const auto op = find<Unary::ApplyInPlace>(name() + "_apply_");
    check_p(name(), p_tensor);
    const NodePointer node = node_for<Node>({self});
    torch::autograd::check_inplace(self, node != nullptr);
    {
      const at::AutoDispatchBelowAutograd guard;
      op.redispatch(keys & c10::after_autograd_keyset, self, state, p, p_tensor, gain, mask_strides, mask_base, block);
    }
    record<P>(self, {self}, state, node, {p, p_tensor, gain, owned(mask_strides), mask_base, owned(block)}, true);
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

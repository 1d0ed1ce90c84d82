// Derivatives of the row operations: a graph node that holds what a row left behind, never the mask.
//
// The backward direction is an operation of its own, a fused kernel. Where it has to be differentiated itself, and in
// forward mode, the same function is a chain of PyTorch's operations and of dropout_apply, which is its own derivative.
// csrc/autograd_node.h says why nodes are built by hand.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include <utility>
#include <vector>

#include "autograd_node.h"
#include "rowwise_border.h"

namespace fused_dropout {
namespace {

using Sizes = std::optional<std::vector<c10::SymInt>>;

// The arguments that every row operation ends with, owned.
struct OwnedRowMap {
  static constexpr const char* kNode = "FusedRowsBackward";
  double p, constant;
  OptionalTensor p_tensor;
  int64_t gain;
  Sizes mask_strides;
  c10::SymInt mask_base;

  OwnedRowMap() = default;
  explicit OwnedRowMap(const RowMap& map)
      : p(map.p),
        constant(map.constant),
        p_tensor(map.p_tensor),
        gain(map.gain),
        mask_strides(map.mask_strides ? Sizes(map.mask_strides->vec()) : std::nullopt),
        mask_base(map.mask_base) {}
  // Without p as a tensor, which the node keeps among the others.
  OwnedRowMap numbers() const {
    OwnedRowMap numbers = *this;
    numbers.p_tensor.reset();
    return numbers;
  }
  MaskStrides strides() const { return mask_strides ? MaskStrides(*mask_strides) : MaskStrides(); }

  Tensor dropped(const Tensor& x, const Tensor& state) const {
    static const auto op = find<Signatures<1>::Apply>("dropout_apply");
    return drops_none(p, p_tensor) ? x : op.call(x, state, p, p_tensor, gain, strides(), mask_base, std::nullopt);
  }
};

template <class AnyMap, class Visit, class = std::enable_if_t<std::is_same_v<std::remove_const_t<AnyMap>, OwnedRowMap>>>
void each_number(AnyMap& map, const Visit& visit) {
  visit(map.p);
  visit(map.constant);
  visit(map.gain);
  visit(map.mask_strides);
  visit(map.mask_base);
}

at::ScalarType wide(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// The chains. Statistics are made again, so that they are differentiated too.

struct Rows {
  Tensor mean, rstd, normal;
  Rows(const Tensor& sum, bool centred, double eps) {
    const Tensor x = sum.to(wide(sum));
    if (centred) mean = x.mean({-1}, true);
    const Tensor deviation = centred ? x - mean : x;
    rstd = at::rsqrt(at::mean(deviation * deviation, {-1}, true) + eps);
    normal = deviation * rstd;
  }
};

Tensor normed_chain(const Rows& rows, const Tensor& sum, const OptionalTensor& weight, const OptionalTensor& bias) {
  Tensor y = rows.normal;
  if (weight) y = y * weight->to(y.scalar_type());
  if (bias) y = y + bias->to(y.scalar_type());
  return y.to(sum.scalar_type());
}

Tensor sum_of_rows(const Tensor& x, at::ScalarType dtype) {
  return x.reshape_symint({-1, x.sym_size(-1)}).sum(0).to(dtype);
}

variable_list norm_backward_chain(bool centred, const Tensor& grad_normed, const OptionalTensor& grad_sum,
                                  const Tensor& sum, const OptionalTensor& weight, const Tensor& state,
                                  const OwnedRowMap& map, at::ArrayRef<bool> wanted) {
  const Rows rows(sum, centred, map.constant);
  const Tensor g = grad_normed.to(wide(sum)), u = weight ? g * weight->to(wide(sum)) : g;
  Tensor r = u - rows.normal * (u * rows.normal).mean({-1}, true);
  if (centred) r = r - u.mean({-1}, true);
  r = rows.rstd * r;
  if (grad_sum) r = r + *grad_sum;
  r = r.to(sum.scalar_type());
  variable_list grads(4);
  if (wanted[0]) grads[0] = drops_none(map.p, map.p_tensor) ? r.clone() : map.dropped(r, state);
  if (wanted[1]) grads[1] = r;
  if (wanted[2]) grads[2] = sum_of_rows(g * rows.normal, sum.scalar_type());
  if (wanted.size() > 3 && wanted[3]) grads[3] = sum_of_rows(g, sum.scalar_type());
  return grads;
}

// A row in which nothing takes part gives zeros, and zero derivatives.
Tensor softmax_chain(const Tensor& input, const OptionalTensor& attn_mask, double scale) {
  Tensor z = input.to(wide(input)) * scale;
  if (attn_mask && attn_mask->scalar_type() == at::kBool) {
    z = z.masked_fill(attn_mask->logical_not(), -std::numeric_limits<double>::infinity());
  } else if (attn_mask) {
    z = z + attn_mask->to(z.scalar_type());
  }
  if (z.sym_size(-1) == 0) return z;
  const Tensor maximum = z.detach().amax({-1}, true);
  const Tensor e = (z - maximum.masked_fill(maximum == -std::numeric_limits<double>::infinity(), 0)).exp();
  const Tensor sum = e.sum({-1}, true);
  return e / sum.masked_fill(sum == 0, 1);
}

variable_list softmax_backward_chain(const Tensor& grad_output, const Tensor& input, const OptionalTensor& attn_mask,
                                     const Tensor& state, const OwnedRowMap& map) {
  const Tensor s = softmax_chain(input, attn_mask, map.constant), g = map.dropped(grad_output, state).to(wide(input));
  const Tensor scores = s * (g - (g * s).sum({-1}, true));
  return {(scores * map.constant).to(input.scalar_type()), scores.to(input.scalar_type())};
}

// What the node keeps: an output of the forward direction, or its input; the weight, or the attn_mask; two statistics;
// the state, and p.
using Node = FusedBackward<OwnedRowMap, 6>;
using RowsNode = decltype(make_node<Node>());

OptionalTensor optional(const Tensor& x) { return x.defined() ? OptionalTensor(x) : std::nullopt; }

template <bool kCentred>
variable_list norm_gradients(const variable_list& grads, const Node::Tensors& saved, const OwnedRowMap& numbers,
                             const std::vector<bool>& wanted) {
  static const auto layer = find<RowBackward::LayerNorm>("dropout_add_layer_norm_backward");
  static const auto rms = find<RowBackward::RmsNorm>("dropout_add_rms_norm_backward");
  const auto& [sum, weight, mean, rstd, state, p_tensor] = saved;
  OwnedRowMap map = numbers;
  map.p_tensor = optional(p_tensor);
  const bool none = drops_none(map.p, map.p_tensor);
  const OptionalTensor grad_sum = optional(grads[1]);
  variable_list out(wanted.size());
  if (!grads[0].defined()) {
    if (wanted[0] && grad_sum) out[0] = map.dropped(*grad_sum, state);
    if (wanted[1] && grad_sum) out[1] = *grad_sum;
    return out;
  }
  const bool residual = wanted[1] || (none && wanted[0]), input = wanted[0] && !none;
  if constexpr (kCentred) {
    std::tie(out[0], out[1], out[2], out[3]) =
        layer.call(grads[0], grad_sum, sum, optional(weight), mean, rstd, state, map.p, map.constant,
                   {input, residual, wanted[2], wanted[3]}, map.p_tensor, map.gain, map.strides(), map.mask_base);
  } else {
    std::tie(out[0], out[1], out[2]) =
        rms.call(grads[0], grad_sum, sum, optional(weight), rstd, state, map.p, map.constant,
                 {input, residual, wanted[2]}, map.p_tensor, map.gain, map.strides(), map.mask_base);
  }
  if (none && wanted[0]) out[0] = out[1];
  return out;
}

variable_list softmax_gradients(const variable_list& grads, const Node::Tensors& saved, const OwnedRowMap& map,
                                const std::vector<bool>& wanted) {
  static const auto op = find<RowBackward::Softmax>("softmax_dropout_backward");
  const auto& [input, attn_mask, maximum, inverse, state, p_tensor] = saved;
  variable_list out(wanted.size());
  if (!grads[0].defined()) return out;
  std::tie(out[0], out[1]) =
      op.call(grads[0], input, optional(attn_mask), maximum, inverse, state, map.p, map.constant,
              {wanted[0], wanted[1]}, optional(p_tensor), map.gain, map.strides(), map.mask_base);
  if (out[1].defined()) out[1] = at::sum_to(out[1], attn_mask.sym_sizes());
  return out;
}

Tensor or_none(const OptionalTensor& x) { return x.value_or(Tensor()); }
const Tensor& or_none(const Tensor& x) { return x; }

// The normed sum and the sum as a chain of PyTorch's operations.
Tensors<2> norm_chain(bool centred, at::ArrayRef<Tensor> inputs, const Tensor& state, const OwnedRowMap& map) {
  static const auto op = find<Signatures<2>::Apply>("dropout_add_apply");
  const Tensor &input = inputs[0], &residual = inputs[1];
  const Tensor sum = drops_none(map.p, map.p_tensor) ? residual + input
                                                     : op.call(input, residual, state, map.p, map.p_tensor, map.gain,
                                                               map.strides(), map.mask_base, std::nullopt);
  const OptionalTensor bias = inputs.size() > 3 ? optional(inputs[3]) : std::nullopt;
  return {normed_chain(Rows(sum, centred, map.constant), sum, optional(inputs[2]), bias), sum};
}

// What the operations differ in. Inputs are undefined where there is none; behind the results in `y` a state may
// follow. `chain` puts what is to be differentiated in their place, `record` attaches the node.
template <bool kCentred>
struct NormRules {
  template <class Y>
  static void chain(Y& y, at::ArrayRef<Tensor> inputs, const Tensor& state, const OwnedRowMap& map) {
    std::tie(std::get<0>(y), std::get<1>(y)) = norm_chain(kCentred, inputs, state, map);
  }
  template <class Y>
  static void record(const Y& y, at::ArrayRef<Tensor> inputs, const Tensor& state, const RowsNode& node,
                     const OwnedRowMap& map) {
    const Tensor &normed = std::get<0>(y), &sum = std::get<1>(y), &rstd = std::get<kCentred ? 3 : 2>(y);
    const Tensor mean = kCentred ? std::get<2>(y) : Tensor();
    torch::autograd::set_history(variable_list{normed, sum}, node);
    node->save(&norm_gradients<kCentred>, {sum, inputs[2], mean, rstd, state, or_none(map.p_tensor)}, map.numbers(),
               /*first_is_output=*/true);
  }
};

struct SoftmaxRules {
  template <class Y>
  static void chain(Y& y, at::ArrayRef<Tensor> inputs, const Tensor& state, const OwnedRowMap& map) {
    const Tensor softmax = softmax_chain(inputs[0], optional(inputs[1]), map.constant);
    std::get<0>(y) = map.dropped(softmax.to(inputs[0].scalar_type()), state);
  }
  template <class Y>
  static void record(const Y& y, at::ArrayRef<Tensor> inputs, const Tensor& state, const RowsNode& node,
                     const OwnedRowMap& map) {
    torch::autograd::set_history(std::get<0>(y), node);
    node->save(&softmax_gradients, {inputs[0], inputs[1], std::get<1>(y), std::get<2>(y), state, or_none(map.p_tensor)},
               map.numbers());
  }
};

template <class Operation, class Rules, class = typename Operation::Operands>
struct Autograd;

template <class Operation, class Rules, class... X>
struct Autograd<Operation, Rules, std::tuple<X...>> {
  static constexpr size_t kResults = Operation::kResults;
  using Signatures = RowSignatures<Operation>;

  template <class Y>
  static void record(Y& y, at::ArrayRef<Tensor> inputs, const Tensor& state, const OwnedRowMap& map) {
    if (any_tangent(inputs)) return Rules::chain(y, inputs, state, map);
    if (const RowsNode node = node_for<Node>(inputs)) Rules::record(y, inputs, state, node, map);
  }

  static Tensors<kResults> apply(c10::DispatchKeySet keys, X... x, const Tensor& state, double p, double constant,
                                 const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                                 c10::SymInt mask_base) {
    static const auto op = find<typename Signatures::Apply>(std::string(Operation::kName) + "_apply");
    check_p(Operation::kName, p_tensor);
    auto y = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, x..., state, p, constant, p_tensor, gain, mask_strides,
                           mask_base);
    }();
    record(y, {or_none(x)...}, state, OwnedRowMap(RowMap{p, constant, p_tensor, gain, mask_strides, mask_base}));
    return y;
  }

  static Tensors<kResults + 1> random(c10::DispatchKeySet keys, X... x, double p, double constant,
                                      const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                                      c10::SymInt mask_base, OptionalGenerator generator,
                                      const OptionalTensor& call_id) {
    static const auto op = find<typename Signatures::Random>(Operation::kName);
    check_p(Operation::kName, p_tensor);
    auto y = [&] {
      const at::AutoDispatchBelowADInplaceOrView guard;
      return op.redispatch(keys & c10::after_autograd_keyset, x..., p, constant, p_tensor, gain, mask_strides,
                           mask_base, std::move(generator), call_id);
    }();
    record(y, {or_none(x)...}, std::get<kResults>(y),
           OwnedRowMap(RowMap{p, constant, p_tensor, gain, mask_strides, mask_base}));
    return y;
  }
};

template <class Operation, class Rules>
void register_forms(torch::Library& m) {
  const std::string name = Operation::kName;
  m.impl(name.c_str(), &Autograd<Operation, Rules>::random);
  m.impl((name + "_apply").c_str(), &Autograd<Operation, Rules>::apply);
}

Tensors<4> layer_norm_backward(c10::DispatchKeySet keys, const Tensor& grad_normed, const OptionalTensor& grad_sum,
                               const Tensor& sum, const OptionalTensor& weight, const Tensor& mean, const Tensor& rstd,
                               const Tensor& state, double p, double eps, std::array<bool, 4> wanted,
                               const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                               c10::SymInt mask_base) {
  static const auto op = find<RowBackward::LayerNorm>("dropout_add_layer_norm_backward");
  if (differentiated({grad_normed, or_none(grad_sum), sum, or_none(weight)})) {
    const OwnedRowMap map(RowMap{p, eps, p_tensor, gain, mask_strides, mask_base});
    const variable_list g = norm_backward_chain(true, grad_normed, grad_sum, sum, weight, state, map, wanted);
    return {g[0], g[1], g[2], g[3]};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.redispatch(keys & c10::after_autograd_keyset, grad_normed, grad_sum, sum, weight, mean, rstd, state, p, eps,
                       wanted, p_tensor, gain, mask_strides, mask_base);
}

Tensors<3> rms_norm_backward(c10::DispatchKeySet keys, const Tensor& grad_normed, const OptionalTensor& grad_sum,
                             const Tensor& sum, const OptionalTensor& weight, const Tensor& rstd, const Tensor& state,
                             double p, double eps, std::array<bool, 3> wanted, const OptionalTensor& p_tensor,
                             int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base) {
  static const auto op = find<RowBackward::RmsNorm>("dropout_add_rms_norm_backward");
  if (differentiated({grad_normed, or_none(grad_sum), sum, or_none(weight)})) {
    const OwnedRowMap map(RowMap{p, eps, p_tensor, gain, mask_strides, mask_base});
    const variable_list g = norm_backward_chain(false, grad_normed, grad_sum, sum, weight, state, map, wanted);
    return {g[0], g[1], g[2]};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.redispatch(keys & c10::after_autograd_keyset, grad_normed, grad_sum, sum, weight, rstd, state, p, eps,
                       wanted, p_tensor, gain, mask_strides, mask_base);
}

Tensors<2> softmax_backward(c10::DispatchKeySet keys, const Tensor& grad_output, const Tensor& input,
                            const OptionalTensor& attn_mask, const Tensor& maximum, const Tensor& inverse,
                            const Tensor& state, double p, double softmax_scale, std::array<bool, 2> wanted,
                            const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                            c10::SymInt mask_base) {
  static const auto op = find<RowBackward::Softmax>("softmax_dropout_backward");
  if (differentiated({grad_output, input, or_none(attn_mask)})) {
    const OwnedRowMap map(RowMap{p, softmax_scale, p_tensor, gain, mask_strides, mask_base});
    const variable_list g = softmax_backward_chain(grad_output, input, attn_mask, state, map);
    return {wanted[0] ? g[0] : Tensor(), wanted[1] ? g[1] : Tensor()};
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.redispatch(keys & c10::after_autograd_keyset, grad_output, input, attn_mask, maximum, inverse, state, p,
                       softmax_scale, wanted, p_tensor, gain, mask_strides, mask_base);
}

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Autograd, m) {
  register_forms<LayerNormCall, NormRules<true>>(m);
  register_forms<RmsNormCall, NormRules<false>>(m);
  register_forms<SoftmaxCall, SoftmaxRules>(m);
  m.impl("dropout_add_layer_norm_backward", &layer_norm_backward);
  m.impl("dropout_add_rms_norm_backward", &rms_norm_backward);
  m.impl("softmax_dropout_backward", &softmax_backward);
}

}  // namespace fused_dropout

// The row operations, written once: for the CPU, CUDA and the meta device.
//
// A backend is
//   Tensor new_output(const Tensor& like)
//   draw, make_state   as in elementwise_ops.h
//   int64_t rows_in_part(rows, features, columns)   that are worked on together, from the shape alone; `columns` where
//     their sums are wanted, which are made of each part first
//   void run(RowOperation, DType, const RowArgs&)
//   void sums_of_parts(DType, parts, sums, count, features)   adds up rows of sums, in their order
// kMeta computes shapes only. Outputs are allocated and every check is made before a state is drawn; only the buffers
// of the CPU's loops may still fail then.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <string>
#include <tuple>

#include "rowwise_border.h"
#include "sum_of_parts.h"

namespace fused_dropout {

// A state that is given, or, where there is a generator to ask, room for one that is drawn when nothing but the kernel
// is left to do.
struct RowState {
  const Tensor& words;
  const OptionalGenerator* generator = nullptr;
};

template <class Backend>
struct RowCalls {
  // An output of the input's shape, in the order of its elements.
  static Tensor new_output(const Tensor& like) {
    if constexpr (Backend::kMeta) {
      return at::empty_symint(like.sym_sizes(), like.options());
    } else {
      return Backend::new_output(like);
    }
  }

  static Tensor new_statistic(const Tensor& x) {
    const at::ScalarType dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    const auto options = x.options().dtype(dtype);
    const auto sizes = x.sym_sizes().slice(0, x.dim() - 1);
    if constexpr (Backend::kMeta) return at::empty_symint(sizes, options);
    return x.numel() == 0 ? at::zeros_symint(sizes, options) : at::empty_symint(sizes, options);
  }

  static void* data(const Tensor& x) { return x.defined() ? x.mutable_data_ptr() : nullptr; }
  static const void* data(const OptionalTensor& x) { return x ? x->const_data_ptr() : nullptr; }
  static Tensor contiguous(const Tensor& x) { return Backend::kMeta ? x : x.contiguous(); }
  static OptionalTensor contiguous(const OptionalTensor& x) { return x ? OptionalTensor(contiguous(*x)) : x; }

  // The source of the kernel's state, and where the kernel leaves it.
  static StateSource source(const RowState& state, int64_t*& state_out) {
    if (state.generator == nullptr) return state_source(state.words);
    state_out = state.words.mutable_data_ptr<int64_t>();
    return Backend::draw(*state.generator, state_out);
  }

  // `operands` sets the pointers of what is read and written.
  template <class Operands>
  static void run(RowOperation operation, const Tensor& input, const RowState& state, const RowMap& map,
                  const OptionalTensor& attn_mask, const Operands& operands) {
    if constexpr (!Backend::kMeta) {
      int64_t* state_out = nullptr;
      if (input.numel() == 0) {
        if (state.generator) Backend::make_state(state.words, source(state, state_out));
        return;
      }
      const OptionalTensor p = device_p(map.p_tensor), mask = mask_of_rows(input, attn_mask);
      RowArgs args = row_args(input, map, p, mask);
      operands(args);
      args.rows_in_part = Backend::rows_in_part(args.rows, args.features, args.column[0] || args.column[1]);
      // What drops nothing reads no state: evaluation passes one that nobody has written.
      if (args.masked || state.generator) args.state = source(state, args.state_out);
      Backend::run(operation, kernel_dtype(input.scalar_type()), args);
    }
  }

  struct Normed {
    Tensor normed, sum, mean, rstd;
  };
  static Normed norm(const char* name, bool centred, const Tensor& input, const Tensor& residual,
                     const OptionalTensor& weight, const OptionalTensor& bias, const RowState& state,
                     const RowMap& map) {
    check_rows(name, input, state.words, map);
    check_beside(name, input, residual);
    check_column(name, "weight", input, weight);
    check_column(name, "bias", input, bias);
    const c10::DeviceGuard guard(input.device());
    const Tensor x = contiguous(input), r = contiguous(residual);
    const OptionalTensor w = contiguous(weight), b = contiguous(bias);
    Normed y{new_output(x), new_output(x), centred ? new_statistic(x) : Tensor(), new_statistic(x)};
    run(centred ? RowOperation::kLayerNorm : RowOperation::kRmsNorm, x, state, map, std::nullopt, [&](RowArgs& args) {
      args.input[0] = x.const_data_ptr();
      args.input[1] = r.const_data_ptr();
      args.weight = data(w);
      args.bias = data(b);
      args.first = data(y.sum);
      args.output = data(y.normed);
      args.statistic[0] = data(y.mean);
      args.statistic[1] = data(y.rstd);
    });
    return y;
  }

  struct NormGradients {
    Tensor input, residual, weight, bias;
  };
  static NormGradients norm_backward(const char* name, bool centred, const Tensor& grad_normed,
                                     const OptionalTensor& grad_sum, const Tensor& sum, const OptionalTensor& weight,
                                     const Tensor& mean, const Tensor& rstd, const Tensor& state, const RowMap& map,
                                     std::array<bool, 4> wanted) {
    check_rows(name, sum, state, map);
    check_beside(name, sum, grad_normed);
    if (grad_sum) check_beside(name, sum, *grad_sum);
    check_column(name, "weight", sum, weight);
    check_statistic(name, sum, rstd);
    if (centred) check_statistic(name, sum, mean);
    const c10::DeviceGuard guard(sum.device());
    const Tensor g = contiguous(grad_normed), s = contiguous(sum), m = centred ? contiguous(mean) : Tensor();
    const Tensor inverse = contiguous(rstd);
    const OptionalTensor h = contiguous(grad_sum), w = contiguous(weight);
    NormGradients grads;
    if (wanted[0]) grads.input = new_output(s);
    if (wanted[1]) grads.residual = new_output(s);
    if constexpr (Backend::kMeta) {
      if (wanted[2]) grads.weight = at::empty_symint({s.sym_size(-1)}, s.options());
      if (wanted[3]) grads.bias = at::empty_symint({s.sym_size(-1)}, s.options());
    } else {
      const int64_t rows = s.numel() == 0 ? 0 : s.numel() / s.size(-1);
      const int64_t in_part = Backend::rows_in_part(rows, s.size(-1), true), parts = (rows + in_part - 1) / in_part;
      const Tensor columns = at::empty({wanted[2] + wanted[3], parts, s.size(-1)}, inverse.options());
      run(centred ? RowOperation::kLayerNormBackward : RowOperation::kRmsNormBackward, s, {state}, map, std::nullopt,
          [&](RowArgs& args) {
            args.input[0] = g.const_data_ptr();
            args.input[1] = s.const_data_ptr();
            args.input[2] = data(h);
            args.weight = data(w);
            args.output = data(grads.residual);
            args.second = data(grads.input);
            args.statistic[0] = data(m);
            args.statistic[1] = data(inverse);
            if (wanted[2]) args.column[0] = data(columns[0]);
            if (wanted[3]) args.column[1] = data(columns[-1]);
          });
      const std::vector<Tensor> sums = sums_of_parts<Backend>(columns, s.scalar_type());
      if (wanted[2]) grads.weight = sums.front();
      if (wanted[3]) grads.bias = sums.back();
    }
    return grads;
  }

  static Tensors<4> call(LayerNormCall of, const Tensor& input, const Tensor& residual, const OptionalTensor& weight,
                         const OptionalTensor& bias, const RowState& state, const RowMap& map) {
    Normed y = norm(of.kName, true, input, residual, weight, bias, state, map);
    return {y.normed, y.sum, y.mean, y.rstd};
  }

  static Tensors<3> call(RmsNormCall of, const Tensor& input, const Tensor& residual, const OptionalTensor& weight,
                         const RowState& state, const RowMap& map) {
    Normed y = norm(of.kName, false, input, residual, weight, std::nullopt, state, map);
    return {y.normed, y.sum, y.rstd};
  }

  static Tensors<4> layer_norm_backward(const Tensor& grad_normed, const OptionalTensor& grad_sum, const Tensor& sum,
                                        const OptionalTensor& weight, const Tensor& mean, const Tensor& rstd,
                                        const Tensor& state, double p, double eps, std::array<bool, 4> wanted,
                                        const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                                        c10::SymInt mask_base) {
    NormGradients g = norm_backward(LayerNormCall::kName, true, grad_normed, grad_sum, sum, weight, mean, rstd, state,
                                    {p, eps, p_tensor, gain, mask_strides, mask_base}, wanted);
    return {g.input, g.residual, g.weight, g.bias};
  }

  static Tensors<3> rms_norm_backward(const Tensor& grad_normed, const OptionalTensor& grad_sum, const Tensor& sum,
                                      const OptionalTensor& weight, const Tensor& rstd, const Tensor& state, double p,
                                      double eps, std::array<bool, 3> wanted, const OptionalTensor& p_tensor,
                                      int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base) {
    NormGradients g =
        norm_backward(RmsNormCall::kName, false, grad_normed, grad_sum, sum, weight, Tensor(), rstd, state,
                      {p, eps, p_tensor, gain, mask_strides, mask_base}, {wanted[0], wanted[1], wanted[2], false});
    return {g.input, g.residual, g.weight};
  }

  static Tensors<3> call(SoftmaxCall of, const Tensor& input, const OptionalTensor& attn_mask, const RowState& state,
                         const RowMap& map) {
    check_rows(of.kName, input, state.words, map);
    check_attn_mask(of.kName, input, attn_mask);
    const c10::DeviceGuard guard(input.device());
    const Tensor x = contiguous(input);
    Tensor output = new_output(x), maximum = new_statistic(x), inverse = new_statistic(x);
    run(RowOperation::kSoftmax, x, state, map, attn_mask, [&](RowArgs& args) {
      args.input[0] = x.const_data_ptr();
      args.second = data(output);
      args.statistic[0] = data(maximum);
      args.statistic[1] = data(inverse);
    });
    return {output, maximum, inverse};
  }

  static Tensors<2> softmax_backward(const Tensor& grad_output, const Tensor& input, const OptionalTensor& attn_mask,
                                     const Tensor& maximum, const Tensor& inverse, const Tensor& state, double p,
                                     double softmax_scale, std::array<bool, 2> wanted, const OptionalTensor& p_tensor,
                                     int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base) {
    const char* const name = SoftmaxCall::kName;
    const RowMap map{p, softmax_scale, p_tensor, gain, mask_strides, mask_base};
    check_rows(name, input, state, map);
    check_beside(name, input, grad_output);
    check_attn_mask(name, input, attn_mask);
    check_statistic(name, input, maximum);
    check_statistic(name, input, inverse);
    const c10::DeviceGuard guard(input.device());
    const Tensor x = contiguous(input), g = contiguous(grad_output);
    const Tensor shift = contiguous(maximum), factor = contiguous(inverse);
    Tensor grad_input = wanted[0] ? new_output(x) : Tensor(), grad_scores = wanted[1] ? new_output(x) : Tensor();
    run(RowOperation::kSoftmaxBackward, x, {state}, map, attn_mask, [&](RowArgs& args) {
      args.input[0] = x.const_data_ptr();
      args.input[1] = g.const_data_ptr();
      args.output = data(grad_scores);
      args.second = data(grad_input);
      args.statistic[0] = data(shift);
      args.statistic[1] = data(factor);
    });
    return {grad_input, grad_scores};
  }
};

// The forward direction as the dispatcher knows it.
template <class Backend, class Operation, class = typename Operation::Operands>
struct RowForms;

template <class Backend, class Operation, class... X>
struct RowForms<Backend, Operation, std::tuple<X...>> {
  static Tensors<Operation::kResults> apply(X... x, const Tensor& state, double p, double constant,
                                            const OptionalTensor& p_tensor, int64_t gain, MaskStrides mask_strides,
                                            c10::SymInt mask_base) {
    return RowCalls<Backend>::call(Operation(), x..., {state}, {p, constant, p_tensor, gain, mask_strides, mask_base});
  }

  static Tensors<Operation::kResults + 1> random(X... x, double p, double constant, const OptionalTensor& p_tensor,
                                                 int64_t gain, MaskStrides mask_strides, c10::SymInt mask_base,
                                                 OptionalGenerator generator, const OptionalTensor&) {
    const Tensor state = new_state(std::get<0>(std::tie(x...)));
    return std::tuple_cat(RowCalls<Backend>::call(Operation(), x..., {state, &generator},
                                                  {p, constant, p_tensor, gain, mask_strides, mask_base}),
                          std::tuple(state));
  }
};

template <class Backend, class Operation>
void register_forms(torch::Library& m) {
  const std::string name = Operation::kName;
  m.impl(name.c_str(), &RowForms<Backend, Operation>::random);
  m.impl((name + "_apply").c_str(), &RowForms<Backend, Operation>::apply);
}

template <class Backend>
void register_row_operations(torch::Library& m) {
  using Calls = RowCalls<Backend>;
  register_forms<Backend, LayerNormCall>(m);
  register_forms<Backend, RmsNormCall>(m);
  register_forms<Backend, SoftmaxCall>(m);
  m.impl("dropout_add_layer_norm_backward", &Calls::layer_norm_backward);
  m.impl("dropout_add_rms_norm_backward", &Calls::rms_norm_backward);
  m.impl("softmax_dropout_backward", &Calls::softmax_backward);
}

}  // namespace fused_dropout

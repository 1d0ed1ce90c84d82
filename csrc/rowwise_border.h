// The border between tensors and the kernels of row operations: every argument is validated here.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "border.h"
#include "core/rowwise.h"
#include "operators.h"

namespace fused_dropout {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The arguments that every row operation ends with; `constant` is eps or the softmax's scale.
struct RowMap {
  double p, constant;
  const OptionalTensor& p_tensor;
  int64_t gain;
  MaskStrides mask_strides;
  const c10::SymInt& mask_base;
};

// The operations as the dispatcher knows them.
struct RowSignatures {
  using LayerNorm = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor& input, const Tensor& residual,
                                                               const OptionalTensor& weight, const OptionalTensor& bias,
                                                               const Tensor& state, double p, double eps,
                                                               const OptionalTensor& p_tensor, int64_t gain,
                                                               MaskStrides, c10::SymInt);
  using RmsNorm = std::tuple<Tensor, Tensor, Tensor>(const Tensor& input, const Tensor& residual,
                                                     const OptionalTensor& weight, const Tensor& state, double p,
                                                     double eps, const OptionalTensor& p_tensor, int64_t gain,
                                                     MaskStrides, c10::SymInt);
  using Softmax = std::tuple<Tensor, Tensor, Tensor>(const Tensor& input, const OptionalTensor& attn_mask,
                                                     const Tensor& state, double p, double softmax_scale,
                                                     const OptionalTensor& p_tensor, int64_t gain, MaskStrides,
                                                     c10::SymInt);
  using LayerNormBackward = std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Tensor& grad_normed, const OptionalTensor& grad_sum, const Tensor& sum, const OptionalTensor& weight,
      const Tensor& mean, const Tensor& rstd, const Tensor& state, double p, double eps, std::array<bool, 4> wanted,
      const OptionalTensor& p_tensor, int64_t gain, MaskStrides, c10::SymInt);
  using RmsNormBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor& grad_normed, const OptionalTensor& grad_sum,
                                                             const Tensor& sum, const OptionalTensor& weight,
                                                             const Tensor& rstd, const Tensor& state, double p,
                                                             double eps, std::array<bool, 3> wanted,
                                                             const OptionalTensor& p_tensor, int64_t gain, MaskStrides,
                                                             c10::SymInt);
  using SoftmaxBackward = std::tuple<Tensor, Tensor>(const Tensor& grad_output, const Tensor& input,
                                                     const OptionalTensor& attn_mask, const Tensor& maximum,
                                                     const Tensor& inverse, const Tensor& state, double p,
                                                     double softmax_scale, std::array<bool, 2> wanted,
                                                     const OptionalTensor& p_tensor, int64_t gain, MaskStrides,
                                                     c10::SymInt);
};

// Without p as a tensor, and where no word lies below p's threshold, nothing is dropped.
bool drops_none(double p, const OptionalTensor& p_tensor);

void check_rows(const char* name, const Tensor& input, const Tensor& state, const RowMap& map);
void check_beside(const char* name, const Tensor& input, const Tensor& other);
void check_column(const char* name, const char* what, const Tensor& input, const OptionalTensor& column);
void check_attn_mask(const char* name, const Tensor& input, const OptionalTensor& attn_mask);
void check_statistic(const char* name, const Tensor& input, const Tensor& statistic);

// The attn_mask as rows of the input's, each of which lies in steps of one.
OptionalTensor mask_of_rows(const Tensor& input, const OptionalTensor& attn_mask);

// Everything but the operands; `p` and `attn_mask` are what device_p and mask_of_rows made of the arguments.
RowArgs row_args(const Tensor& input, const Tensor& state, const RowMap& map, const OptionalTensor& p,
                 const OptionalTensor& attn_mask);

}  // namespace fused_dropout

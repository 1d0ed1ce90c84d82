// The border between tensors and the kernels of row operations: every argument is validated here.
#pragma once

#include <ATen/core/Generator.h>
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
using OptionalGenerator = std::optional<at::Generator>;

// The arguments that every row operation ends with; `constant` is eps or the softmax's scale.
struct RowMap {
  double p, constant;
  const OptionalTensor& p_tensor;
  int64_t gain;
  MaskStrides mask_strides;
  const c10::SymInt& mask_base;
};

// The operations, with the tensors that they take before a state and the number of those that they return.
struct LayerNormCall {
  static constexpr const char* kName = "dropout_add_layer_norm";
  using Operands = std::tuple<const Tensor&, const Tensor&, const OptionalTensor&, const OptionalTensor&>;
  static constexpr size_t kResults = 4;
};
struct RmsNormCall {
  static constexpr const char* kName = "dropout_add_rms_norm";
  using Operands = std::tuple<const Tensor&, const Tensor&, const OptionalTensor&>;
  static constexpr size_t kResults = 3;
};
struct SoftmaxCall {
  static constexpr const char* kName = "softmax_dropout";
  using Operands = std::tuple<const Tensor&, const OptionalTensor&>;
  static constexpr size_t kResults = 3;
};

template <size_t kCount>
using Tensors = decltype(std::tuple_cat(std::array<Tensor, kCount>()));

// As the dispatcher knows them: of a given state, and of one that they draw and return last.
template <class Operation, class = typename Operation::Operands>
struct RowSignatures;

template <class Operation, class... X>
struct RowSignatures<Operation, std::tuple<X...>> {
  using Apply = Tensors<Operation::kResults>(X..., const Tensor& state, double p, double constant,
                                             const OptionalTensor& p_tensor, int64_t gain, MaskStrides, c10::SymInt);
  using Random = Tensors<Operation::kResults + 1>(X..., double p, double constant, const OptionalTensor& p_tensor,
                                                  int64_t gain, MaskStrides, c10::SymInt, OptionalGenerator,
                                                  const OptionalTensor& call_id);
};

// Their derivatives.
struct RowBackward {
  using LayerNorm = Tensors<4>(const Tensor& grad_normed, const OptionalTensor& grad_sum, const Tensor& sum,
                               const OptionalTensor& weight, const Tensor& mean, const Tensor& rstd,
                               const Tensor& state, double p, double eps, std::array<bool, 4> wanted,
                               const OptionalTensor& p_tensor, int64_t gain, MaskStrides, c10::SymInt);
  using RmsNorm = Tensors<3>(const Tensor& grad_normed, const OptionalTensor& grad_sum, const Tensor& sum,
                             const OptionalTensor& weight, const Tensor& rstd, const Tensor& state, double p,
                             double eps, std::array<bool, 3> wanted, const OptionalTensor& p_tensor, int64_t gain,
                             MaskStrides, c10::SymInt);
  using Softmax = Tensors<2>(const Tensor& grad_output, const Tensor& input, const OptionalTensor& attn_mask,
                             const Tensor& maximum, const Tensor& inverse, const Tensor& state, double p,
                             double softmax_scale, std::array<bool, 2> wanted, const OptionalTensor& p_tensor,
                             int64_t gain, MaskStrides, c10::SymInt);
};

void check_rows(const char* name, const Tensor& input, const Tensor& state, const RowMap& map);
void check_beside(const char* name, const Tensor& input, const Tensor& other);
void check_column(const char* name, const char* what, const Tensor& input, const OptionalTensor& column);
void check_attn_mask(const char* name, const Tensor& input, const OptionalTensor& attn_mask);
void check_statistic(const char* name, const Tensor& input, const Tensor& statistic);

// The attn_mask as rows of the input's, each of which lies in steps of one.
OptionalTensor mask_of_rows(const Tensor& input, const OptionalTensor& attn_mask);

// Everything but the operands and the state; `p` and `attn_mask` are what device_p and mask_of_rows made of the
// arguments.
RowArgs row_args(const Tensor& input, const RowMap& map, const OptionalTensor& p, const OptionalTensor& attn_mask);

}  // namespace fused_dropout

#include "rowwise_border.h"

#include <ATen/ExpandUtils.h>
#include <c10/util/Exception.h>

#include "registration.h"

namespace fused_dropout {

namespace {

void check_same(const char* name, const char* what, const Tensor& x, const Tensor& other) {
  TORCH_CHECK(other.scalar_type() == x.scalar_type(), name, ": expected ", what, " of the input's dtype ",
              x.scalar_type(), ", but got one of ", other.scalar_type());
  TORCH_CHECK(other.device() == x.device(), name, ": expected ", what, " on the input's device ", x.device(),
              ", but got one on ", other.device());
  TORCH_CHECK(other.layout() == at::kStrided, name, ": expected ", what, " to be dense, but got layout ",
              other.layout());
}

at::ScalarType statistic_dtype(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

}  // namespace

void check_rows(const char* name, const Tensor& input, const Tensor& state, const RowMap& map) {
  const at::ScalarType dtype = input.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble, name,
              ": expected a tensor of dtype float16, bfloat16, float32 or float64, but got ", dtype);
  TORCH_CHECK(input.layout() == at::kStrided, name, ": expected a dense tensor, but got one of layout ",
              input.layout());
  TORCH_CHECK_VALUE(input.dim() > 0, name,
                    ": expected an input of at least 1 dimension, the last one a row, but got 0");
  check_dims(name, input.dim());
  check_map(Facts{name, 0, false, false}, input, map.p, map.p_tensor, map.gain,
            map.mask_strides ? std::optional<size_t>(map.mask_strides->size()) : std::nullopt, std::nullopt);
  check_state(name, state, input.device());
}

void check_beside(const char* name, const Tensor& input, const Tensor& other) {
  TORCH_CHECK_VALUE(other.sym_sizes() == input.sym_sizes(), name, ": expected all tensors to have the input's shape ",
                    input.sym_sizes(), ", but got one of shape ", other.sym_sizes());
  check_same(name, "all tensors", input, other);
}

void check_column(const char* name, const char* what, const Tensor& input, const OptionalTensor& column) {
  if (!column) return;
  TORCH_CHECK_VALUE(column->dim() == 1 && column->sym_size(0) == input.sym_size(-1), name, ": expected a ", what,
                    " of shape [", input.sym_size(-1), "], as the input's last dimension, but got one of shape ",
                    column->sym_sizes());
  check_same(name, what, input, *column);
}

void check_attn_mask(const char* name, const Tensor& input, const OptionalTensor& attn_mask) {
  if (!attn_mask) return;
  TORCH_CHECK_VALUE(at::is_expandable_to(attn_mask->sym_sizes(), input.sym_sizes()), name,
                    ": expected an attn_mask that broadcasts to the input's shape ", input.sym_sizes(),
                    ", but got one of shape ", attn_mask->sym_sizes());
  if (attn_mask->scalar_type() == at::kBool) {
    TORCH_CHECK(attn_mask->device() == input.device(), name, ": expected attn_mask on the input's device ",
                input.device(), ", but got one on ", attn_mask->device());
    return;
  }
  TORCH_CHECK(attn_mask->scalar_type() == input.scalar_type(), name,
              ": expected an attn_mask of bools or of the input's dtype ", input.scalar_type(), ", but got one of ",
              attn_mask->scalar_type());
  check_same(name, "attn_mask", input, *attn_mask);
}

void check_statistic(const char* name, const Tensor& input, const Tensor& statistic) {
  TORCH_CHECK_VALUE(statistic.sym_sizes() == input.sym_sizes().slice(0, input.dim() - 1) &&
                        statistic.scalar_type() == statistic_dtype(input) && statistic.device() == input.device(),
                    name, ": expected statistics of the input's rows, but got ", statistic.scalar_type(), " of shape ",
                    statistic.sym_sizes());
}

OptionalTensor mask_of_rows(const Tensor& input, const OptionalTensor& attn_mask) {
  if (!attn_mask) return std::nullopt;
  Tensor mask = attn_mask->dim() == 0 ? attn_mask->unsqueeze(0) : *attn_mask;
  std::vector<int64_t> sizes = mask.sizes().vec();
  sizes.back() = input.size(-1);
  mask = mask.expand(sizes);
  if (mask.stride(-1) != 1 && mask.size(-1) > 1) mask = mask.contiguous();
  return mask.expand(input.sizes());
}

RowArgs row_args(const Tensor& input, const RowMap& map, const OptionalTensor& p, const OptionalTensor& attn_mask) {
  RowArgs args;
  const int last = static_cast<int>(input.dim()) - 1;
  std::array<int64_t, kMaxDims> row_strides, attn_strides;
  std::array<uint64_t, kMaxDims> mask_strides;
  uint64_t row_major = 1;
  int64_t rows = 1;
  for (int d = last; d >= 0; --d) {
    mask_strides[d] = row_major;
    if (map.mask_strides) {
      const bool own = d < static_cast<int>(map.mask_strides->size());
      mask_strides[d] = own ? static_cast<uint64_t>((*map.mask_strides)[d].guard_int(__FILE__, __LINE__)) : 0;
    }
    row_major *= static_cast<uint64_t>(input.size(d));
    row_strides[d] = rows;
    attn_strides[d] = attn_mask ? attn_mask->stride(d) : 0;
    if (d < last) rows *= input.size(d);
  }
  args.rows = rows;
  args.features = input.size(last);
  const int64_t* const strides[] = {row_strides.data(), attn_strides.data()};
  args.places = plan(last, input.sizes().data(), 2, strides, mask_strides.data(),
                     static_cast<uint64_t>(map.mask_base.guard_int(__FILE__, __LINE__)));
  args.mask_stride = mask_strides[last];
  if (attn_mask) {
    args.attend = attn_mask->scalar_type() == at::kBool ? Attend::kSome : Attend::kBiased;
    args.attn_mask = attn_mask->const_data_ptr();
  }
  args.masked = !drops_none(map.p, map.p_tensor);
  args.constant = map.constant;
  args.p.value = Probability::of(map.p);
  args.p.p_ptr = p ? p->const_data_ptr<double>() : nullptr;
  args.gain = static_cast<Gain>(map.gain);
  return args;
}

}  // namespace fused_dropout

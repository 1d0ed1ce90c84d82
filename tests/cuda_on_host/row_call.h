// A call of a row operation from plain arrays. Whoever includes it has included csrc/core/rowwise.h.
#pragma once

namespace fused_dropout {

// `operands`: three inputs, weight, bias, attn_mask, three outputs, two statistics, two arrays of columns' sums, and
// where a GPU leaves the state, each of which may be null. `strides` holds those of attn_mask, in elements.
inline RowArgs row_args(void* const* operands, int ndim, const int64_t* sizes, const int64_t* strides,
                        const uint64_t* mask_strides, uint64_t mask_base, int attend, int masked, double constant,
                        uint64_t seed, uint64_t offset, double p) {
  RowArgs args;
  const int last = ndim - 1;
  int64_t row_strides[kMaxDims], rows = 1;
  for (int d = last - 1; d >= 0; rows *= sizes[d--]) row_strides[d] = rows;
  const int64_t* const each[] = {row_strides, strides};
  for (int k = 0; k < 3; ++k) args.input[k] = operands[k];
  args.weight = operands[3];
  args.bias = operands[4];
  args.attn_mask = operands[5];
  args.first = operands[6];
  args.output = operands[7];
  args.second = operands[8];
  for (int k = 0; k < 2; ++k) args.statistic[k] = operands[9 + k], args.column[k] = operands[11 + k];
  args.state_out = static_cast<int64_t*>(operands[13]);
  args.rows = rows;
  args.features = sizes[last];
  args.places = plan(last, sizes, 2, each, mask_strides, mask_base);
  args.mask_stride = mask_strides[last];
  args.attend = static_cast<Attend>(attend);
  args.masked = masked != 0;
  args.constant = constant;
  args.state = {nullptr, nullptr, seed, offset};
  args.p.value = Probability::of(p);
  return args;
}

}  // namespace fused_dropout

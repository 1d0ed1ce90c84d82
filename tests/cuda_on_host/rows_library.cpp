// The kernels of row operations behind plain C functions, for tests to call with ctypes.
#include "../../csrc/core/layout.cpp"
#include "../../csrc/cuda/rowwise_kernels.cu"

using namespace fused_dropout;

// `operands`: three inputs, weight, bias, attn_mask, three outputs, two statistics, two arrays of columns' sums, each
// of which may be null. `strides` holds those of attn_mask, in elements.
extern "C" int64_t run_rows_on_cuda(int operation, int dtype, void* const* operands, int ndim, const int64_t* sizes,
                                    const int64_t* strides, const uint64_t* mask_strides, uint64_t mask_base,
                                    int attend, int masked, double constant, uint64_t seed, uint64_t offset, double p,
                                    int columns) {
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
  args.rows = rows;
  args.features = sizes[last];
  args.places = plan(last, sizes, 2, each, mask_strides, mask_base);
  args.mask_stride = mask_strides[last];
  args.attend = static_cast<Attend>(attend);
  args.masked = masked != 0;
  args.constant = constant;
  args.state = {nullptr, nullptr, seed, offset};
  args.p.value = Probability::of(p);
  args.rows_in_part = columns ? rows_in_part(rows) : 1;
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_rows(static_cast<RowOperation>(operation), static_cast<DType>(dtype), args, nullptr);
  return args.parts();
}

extern "C" void run_sum_of_parts_on_cuda(int dtype, const void* parts, int64_t count, int64_t features, void* sum) {
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_sum_of_parts(static_cast<DType>(dtype), parts, count, features, sum, nullptr);
}

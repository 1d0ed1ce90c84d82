// The kernels of row operations, and of sums over all rows, behind plain C functions, for tests to call with ctypes.
#include <string>

#include "../../csrc/core/layout.cpp"
#include "../../csrc/cuda/columns_kernels.cu"
#include "../../csrc/cuda/rowwise_kernels.cu"
#include "row_call.h"

using namespace fused_dropout;

extern "C" void tell_launches(cuda_on_host::Launched to) { cuda_on_host::on_launch = to; }

// A call as row_args has it, with sums of columns or without; returns how many parts the rows have.
extern "C" int64_t run_rows_on_cuda(int operation, int dtype, void* const* operands, int ndim, const int64_t* sizes,
                                    const int64_t* strides, const uint64_t* mask_strides, uint64_t mask_base,
                                    int attend, int masked, double constant, uint64_t seed, uint64_t offset, double p,
                                    int columns) {
  RowArgs args =
      row_args(operands, ndim, sizes, strides, mask_strides, mask_base, attend, masked, constant, seed, offset, p);
  args.rows_in_part = columns ? rows_in_part(args.rows) : 1;
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_rows(static_cast<RowOperation>(operation), static_cast<DType>(dtype), args, nullptr);
  return args.parts();
}

extern "C" void run_sums_of_parts_on_cuda(int dtype, const void* parts, void* const* sums, int number, int64_t count,
                                          int64_t features) {
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_sums_of_parts(static_cast<DType>(dtype), parts, sums, number, count, features, nullptr);
}

// The rows of `features` elements of one call; `operands` are the output, then the inputs, and `strides` theirs.
// Returns how many parts the rows have, or -1 where the kernel does not take the call.
extern "C" int64_t run_and_sum_on_cuda(const char* pipeline, int dtype, void* const* operand, int operands, int ndim,
                                       const int64_t* sizes, const int64_t* strides, const uint64_t* mask_strides,
                                       uint64_t mask_base, uint64_t seed, uint64_t offset, double p, int64_t gain,
                                       void* sums) {
  PipelineId id = 0, found = -1;
  SummedTable::each([&](auto row) {
    constexpr Name own = decltype(row)::template Pipeline<float>::kName;
    if (std::string(own.prefix) + own.stem + own.suffix == pipeline) found = id;
    ++id;
  });
  ElementwiseArgs args;
  const int64_t* each[kMaxOperands] = {};
  for (int k = 0; k < operands; ++k) each[k] = strides + k * ndim;
  args.outputs[0] = operand[0];
  for (int k = 1; k < operands; ++k) args.inputs[k - 1] = operand[k];
  args.layout = plan(ndim, sizes, operands, each, mask_strides, mask_base);
  args.state = {nullptr, nullptr, seed, offset};
  args.p = {nullptr, Probability::of(p)};
  args.gain = static_cast<Gain>(gain);
  const int64_t features = sizes[ndim - 1], rows = args.layout.elements(0, args.layout.ndim) / features;
  if (!takes_sums(args.layout, features)) return -1;
  cuda_on_host::first_block = 0;
  cuda_on_host::last_block = UINT64_MAX;
  launch_and_sum(found, static_cast<DType>(dtype), args, features, sums, nullptr);
  const int64_t in_part = rows_in_part(rows, features);
  return (rows + in_part - 1) / in_part;
}

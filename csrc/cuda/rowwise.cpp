// The row operations on CUDA: the current stream, the launch.
#include "rowwise.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>

#include "../rowwise_ops.h"

namespace fused_dropout {
namespace {

struct CudaBackend {
  static constexpr bool kMeta = false;
  static Tensor new_output(const Tensor& like) { return at::empty_like(like); }
  static int64_t rows_in_part(int64_t rows, int64_t, bool columns) {
    return columns ? fused_dropout::rows_in_part(rows) : 1;
  }

  static void run(RowOperation operation, DType dtype, const RowArgs& args) {
    C10_CUDA_CHECK(launch_rows(operation, dtype, args, at::cuda::getCurrentCUDAStream()));
  }

  static Tensor sum_of_parts(const Tensor& parts, at::ScalarType dtype) {
    Tensor sum = at::empty({parts.size(1)}, parts.options().dtype(dtype));
    C10_CUDA_CHECK(launch_sum_of_parts(kernel_dtype(dtype), parts.const_data_ptr(), parts.size(0), parts.size(1),
                                       sum.mutable_data_ptr(), at::cuda::getCurrentCUDAStream()));
    return sum;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) { register_row_operations<CudaBackend>(m); }

}  // namespace fused_dropout

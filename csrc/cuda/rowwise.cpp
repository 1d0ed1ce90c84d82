// The row operations on CUDA: the current stream, the launch.
#include "rowwise.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>

#include "../cuda_generator.h"
#include "../rowwise_ops.h"
#include "columns.h"

namespace fused_dropout {
namespace {

struct CudaBackend : CudaStates {
  static constexpr bool kMeta = false;
  static Tensor new_output(const Tensor& like) { return at::empty_like(like); }
  static int64_t rows_in_part(int64_t rows, int64_t, bool columns) {
    return columns ? fused_dropout::rows_in_part(rows) : 1;
  }

  static void run(RowOperation operation, DType dtype, const RowArgs& args) {
    C10_CUDA_CHECK(launch_rows(operation, dtype, args, at::cuda::getCurrentCUDAStream()));
  }

  static void sums_of_parts(DType dtype, const void* parts, at::ArrayRef<void*> sums, int64_t count, int64_t features) {
    C10_CUDA_CHECK(launch_sums_of_parts(dtype, parts, sums.data(), static_cast<int>(sums.size()), count, features,
                                        at::cuda::getCurrentCUDAStream()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) { register_row_operations<CudaBackend>(m); }

}  // namespace fused_dropout

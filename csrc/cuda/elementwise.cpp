// The elementwise operations on CUDA: the current stream, the launch.
#include "elementwise.h"

#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "../cuda_generator.h"
#include "../elementwise_ops.h"
#include "block.h"
#include "columns.h"

namespace fused_dropout {
namespace {

struct CudaBackend : CudaStates {
  static Tensor new_output(const Tensor& like) { return at::empty_like(like); }

  static void run(PipelineId pipeline, DType dtype, const ElementwiseArgs& args) {
    C10_CUDA_CHECK(launch_elementwise(pipeline, dtype, args, at::cuda::getCurrentCUDAStream()));
  }

  static bool sums(const Layout& layout, int64_t features) { return takes_sums(layout, features); }

  static int64_t rows_in_part(int64_t rows, int64_t features) { return fused_dropout::rows_in_part(rows, features); }

  template <class P>
  static void run_and_sum(DType dtype, const ElementwiseArgs& args, int64_t features, void* sums) {
    C10_CUDA_CHECK(
        launch_and_sum(SummedTable::find<P>(), dtype, args, features, sums, at::cuda::getCurrentCUDAStream()));
  }

  static void sums_of_parts(DType dtype, const void* parts, at::ArrayRef<void*> sums, int64_t count, int64_t features) {
    C10_CUDA_CHECK(launch_sums_of_parts(dtype, parts, sums.data(), static_cast<int>(sums.size()), count, features,
                                        at::cuda::getCurrentCUDAStream()));
  }

  static constexpr bool kStoresSeeds = true;

  static void make_blocks(const BlockArgs& args) {
    C10_CUDA_CHECK(launch_blocks(args, at::cuda::getCurrentCUDAStream()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) { register_backend<CudaBackend>(m); }

}  // namespace fused_dropout

// The elementwise operations on CUDA: a generator's state, the current stream, the launch.
#include "elementwise.h"

#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <mutex>

#include "../elementwise_ops.h"
#include "block.h"
#include "columns.h"

namespace fused_dropout {
namespace {

struct CudaBackend {
  static Tensor new_output(const Tensor& like) { return at::empty_like(like); }

  // Reserves the 8 words of the call. Under graph capture seed and offset live on the device, and what is returned
  // points to them, so that every replay draws anew; `state` is written by the kernel in either case.
  static StateSource draw(const OptionalGenerator& generator, int64_t*) {
    auto* gen =
        at::get_generator_or_default<at::CUDAGeneratorImpl>(generator, at::cuda::detail::getDefaultCUDAGenerator());
    const auto device = at::cuda::current_device();
    TORCH_CHECK(gen->device().index() == device, "expected a generator of the input's device cuda:", int{device},
                ", but got one of ", gen->device());
    const std::lock_guard<std::mutex> lock(gen->mutex_);
    const at::PhiloxCudaState drawn = gen->philox_cuda_state(kGroup);
    if (drawn.captured_) return {drawn.seed_.ptr, drawn.offset_.ptr, 0, drawn.offset_intragraph_};
    return {nullptr, nullptr, drawn.seed_.val, drawn.offset_.val};
  }

  static void make_state(Tensor& state, StateSource source) {
    C10_CUDA_CHECK(launch_write_state(source, state.mutable_data_ptr<int64_t>(), at::cuda::getCurrentCUDAStream()));
  }

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

  static void sum_of_parts(DType dtype, const void* parts, int64_t count, int64_t features, void* sum) {
    C10_CUDA_CHECK(launch_sum_of_parts(dtype, parts, count, features, sum, at::cuda::getCurrentCUDAStream()));
  }

  static constexpr bool kStoresSeeds = true;

  static void make_blocks(const BlockArgs& args) {
    C10_CUDA_CHECK(launch_blocks(args, at::cuda::getCurrentCUDAStream()));
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CUDA, m) { register_backend<CudaBackend>(m); }

}  // namespace fused_dropout

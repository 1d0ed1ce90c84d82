// States from a CUDA generator: what a backend of the operations draws with.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <c10/cuda/CUDAException.h>

#include <mutex>
#include <optional>

#include "cuda/elementwise.h"

namespace fused_dropout {

struct CudaStates {
  // Reserves the 8 words of the call. Under graph capture seed and offset live on the device, and what is returned
  // points to them, so that every replay draws anew; `state` is written by the kernel in either case.
  static StateSource draw(const std::optional<at::Generator>& generator, int64_t*) {
    auto* gen =
        at::get_generator_or_default<at::CUDAGeneratorImpl>(generator, at::cuda::detail::getDefaultCUDAGenerator());
    const auto device = at::cuda::current_device(), own = gen->device().index();  // -1: torch.Generator("cuda")
    TORCH_CHECK(own == device || own == -1, "expected a generator of the input's device cuda:", int{device},
                ", but got one of ", gen->device());
    const std::lock_guard<std::mutex> lock(gen->mutex_);
    const at::PhiloxCudaState drawn = gen->philox_cuda_state(kGroup);
    if (drawn.captured_) return {drawn.seed_.ptr, drawn.offset_.ptr, 0, drawn.offset_intragraph_};
    return {nullptr, nullptr, drawn.seed_.val, drawn.offset_.val};
  }

  static void make_state(const at::Tensor& state, StateSource source) {
    C10_CUDA_CHECK(launch_write_state(source, state.mutable_data_ptr<int64_t>(), at::cuda::getCurrentCUDAStream()));
  }
};

}  // namespace fused_dropout

// States from a CPU generator: what a backend of the operations draws with.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>

#include <mutex>
#include <optional>

#include "core/mask.h"

namespace fused_dropout {

struct CpuStates {
  // Two 64-bit draws in one hold of the lock, the second with its low two bits cleared.
  static StateSource draw(const std::optional<at::Generator>& generator, int64_t* state) {
    auto* gen = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(gen->mutex_);
    state[0] = static_cast<int64_t>(gen->random64());
    state[1] = static_cast<int64_t>(gen->random64() & ~uint64_t{3});
    return {state, state + 1, 0, 0};
  }

  static void make_state(const at::Tensor& state, StateSource source) {
    const State s = source.load();
    int64_t* words = state.mutable_data_ptr<int64_t>();
    words[0] = static_cast<int64_t>(s.seed);
    words[1] = static_cast<int64_t>(s.offset);
  }
};

}  // namespace fused_dropout

// The elementwise operations on the CPU: a generator's state, and the loops over PyTorch's threads.
#include "elementwise.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <mutex>

#include "../elementwise_ops.h"
#include "instruction_set.h"

namespace fused_dropout {
namespace {

// A thread is woken for this many elements: about 15 us of work, as PyTorch's own elementwise loops have it.
constexpr int64_t kElementsPerThread = 32768;

struct CpuBackend {
  // Two 64-bit draws in one hold of the lock, the second with its low two bits cleared.
  static StateSource draw(const OptionalGenerator& generator, int64_t* state) {
    auto* gen = at::get_generator_or_default<at::CPUGeneratorImpl>(generator, at::detail::getDefaultCPUGenerator());
    const std::lock_guard<std::mutex> lock(gen->mutex_);
    state[0] = static_cast<int64_t>(gen->random64());
    state[1] = static_cast<int64_t>(gen->random64() & ~uint64_t{3});
    return {state, state + 1, 0, 0};
  }

  static void make_state(Tensor& state, StateSource source) {
    const State s = source.load();
    int64_t* words = state.mutable_data_ptr<int64_t>();
    words[0] = static_cast<int64_t>(s.seed);
    words[1] = static_cast<int64_t>(s.offset);
  }

  static void run(PipelineId pipeline, DType dtype, ElementwiseArgs& args) {
    arrange_tiles(args.layout);
    const Work work = elementwise_work(args.layout);
    if (work.items == 0) return;
    const int64_t grain = std::max<int64_t>(1, kElementsPerThread / work.elements_per_item);
    const ElementwiseFunction function = elementwise_function();
    at::parallel_for(0, work.items, grain,
                     [&](int64_t begin, int64_t end) { function(pipeline, dtype, args, begin, end); });
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) { register_backend<CpuBackend>(m); }

}  // namespace fused_dropout

// The elementwise operations on the CPU: a generator's state, and the loops over PyTorch's threads.
#include "elementwise.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <mutex>

#include "../elementwise_ops.h"
#include "instruction_set.h"

namespace fused_dropout {
namespace {

// A thread is woken for this many elements: about 15 us of work, as PyTorch's own elementwise loops have it.
constexpr int64_t kElementsPerThread = 32768;

constexpr size_t kHugePage = size_t{2} << 20;  // of x86-64, and of ARM with 4 KiB pages

// From this size on glibc's malloc takes memory from the kernel for each call and gives it back after (its dynamic mmap
// threshold ends here); smaller blocks it hands out again with their pages in place.
constexpr size_t kFromKernel = size_t{32} << 20;

struct CpuBackend {
  // A large new output asks for huge pages, as PyTorch's THP_MEM_ALLOC_ENABLE does for all tensors: the kernel takes
  // less time than the faults of 4 KiB pages. (64 MiB of float32 on Zen 4, one thread: 44 ms without, 12 ms with.)
  static Tensor new_output(const Tensor& like) {
    Tensor output = at::empty_like(like);
#if defined(MADV_HUGEPAGE)
    const size_t bytes = output.nbytes();
    if (bytes >= kFromKernel) {
      const uintptr_t start = reinterpret_cast<uintptr_t>(output.mutable_data_ptr());
      const uintptr_t first = (start + kHugePage - 1) & ~(kHugePage - 1), last = (start + bytes) & ~(kHugePage - 1);
      madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: that it fails is no error
    }
#endif
    return output;
  }

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

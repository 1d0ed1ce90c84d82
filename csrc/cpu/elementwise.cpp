// The elementwise operations on the CPU: the loops over PyTorch's threads.
#include "elementwise.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "../cpu_generator.h"
#include "../elementwise_ops.h"
#include "../new_output.h"
#include "columns.h"
#include "instruction_set.h"
#include "long_rows.h"

namespace fused_dropout {
namespace {

// A thread is woken for this many elements: about 15 us of work, as PyTorch's own elementwise loops have it.
constexpr int64_t kElementsPerThread = 32768;
// Of less columns PyTorch's sum is the faster one: a second pass takes 0.7 to 1 times as long.
constexpr int64_t kFewestColumns = 64;

struct CpuBackend : CpuStates {
  static Tensor new_output(const Tensor& like) { return new_cpu_output(like); }

  static void run(PipelineId pipeline, DType dtype, ElementwiseArgs& args) {
    const Kernels& family = kernels();
    with_long_rows(pipeline, dtype, args, [&](const ElementwiseArgs& part) {
      const Work work = elementwise_work(part.layout);
      if (work.items == 0) return;
      const int64_t grain = std::max<int64_t>(1, kElementsPerThread / work.elements_per_item);
      at::parallel_for(0, work.items, grain,
                       [&](int64_t begin, int64_t end) { family.elementwise(pipeline, dtype, part, begin, end); });
    });
  }

  static bool sums(const Layout& layout, int64_t features) {
    return features >= kFewestColumns && layout.counts_rows(features) && !is_tiled(layout);
  }

  static int64_t rows_in_part(int64_t rows, int64_t features) { return rows_in_sum(rows, features); }

  template <class P>
  static void run_and_sum(DType dtype, const ElementwiseArgs& args, int64_t features, void* sums) {
    fused_dropout::run_and_sum(kernel_of<P>(), dtype, args, features, sums);
  }

  static void sums_of_parts(DType dtype, const void* parts, at::ArrayRef<void*> sums, int64_t count, int64_t features) {
    fused_dropout::sums_of_parts(dtype, parts, sums.data(), static_cast<int>(sums.size()), count, features);
  }

  static constexpr bool kStoresSeeds = false;  // a plane of them at a time is enough

  static void make_blocks(const BlockArgs& args) {
    const Kernels& family = kernels();
    const int64_t grain = std::max<int64_t>(1, kElementsPerThread / args.map.elements());
    std::atomic<int64_t> kept{0};
    at::parallel_for(0, args.map.planes(), grain,
                     [&](int64_t begin, int64_t end) { kept += family.block_masks(args, begin, end); });
    *args.kept += kept;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) { register_backend<CpuBackend>(m); }

}  // namespace fused_dropout

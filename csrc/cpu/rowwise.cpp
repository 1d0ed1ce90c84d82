// The row operations on the CPU: the parts of the rows over PyTorch's threads.
#include <ATen/Parallel.h>

#include "../cpu_generator.h"
#include "../new_output.h"
#include "../rowwise_ops.h"
#include "columns.h"
#include "instruction_set.h"

namespace fused_dropout {
namespace {

constexpr int64_t kElementsPerThread = 16384;  // worth waking a thread for: a row takes longer than a plain loop

struct CpuBackend : CpuStates {
  static constexpr bool kMeta = false;
  static Tensor new_output(const Tensor& like) { return new_cpu_output(like); }

  static int64_t rows_in_part(int64_t rows, int64_t features, bool) {
    return fused_dropout::rows_in_part(rows, features, kElementsPerThread);
  }

  static void run(RowOperation operation, DType dtype, const RowArgs& args) {
    const Kernels& family = kernels();
    at::parallel_for(0, args.parts(), 1,
                     [&](int64_t begin, int64_t end) { family.rows(operation, dtype, args, begin, end); });
  }

  static void sums_of_parts(DType dtype, const void* parts, at::ArrayRef<void*> sums, int64_t count, int64_t features) {
    fused_dropout::sums_of_parts(dtype, parts, sums.data(), static_cast<int>(sums.size()), count, features);
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) { register_row_operations<CpuBackend>(m); }

}  // namespace fused_dropout

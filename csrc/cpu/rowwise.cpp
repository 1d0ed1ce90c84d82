// The row operations on the CPU: the parts of the rows over PyTorch's threads.
#include <ATen/Parallel.h>

#include <algorithm>

#include "../new_output.h"
#include "../rowwise_ops.h"
#include "instruction_set.h"

namespace fused_dropout {
namespace {

constexpr int64_t kElementsPerThread = 16384;  // worth waking a thread for: a row takes longer than a plain loop
// Parts that have sums of columns of their own: enough for as many threads, and few enough to add up in a moment.
constexpr int64_t kParts = 128;

template <class C, class T>
void add_up(const C* parts, int64_t count, int64_t features, T* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    C sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += parts[part * features + i];
    from_compute(sum, to[i]);
  }
}

struct CpuBackend {
  static constexpr bool kMeta = false;
  static Tensor new_output(const Tensor& like) { return new_cpu_output(like); }

  static int64_t rows_in_part(int64_t rows, int64_t features, bool) {
    const int64_t worth = kElementsPerThread / std::max<int64_t>(features, 1);
    return std::max<int64_t>({1, worth, (rows + kParts - 1) / kParts});
  }

  static void run(RowOperation operation, DType dtype, const RowArgs& args) {
    const Kernels& family = kernels();
    at::parallel_for(0, args.parts(), 1,
                     [&](int64_t begin, int64_t end) { family.rows(operation, dtype, args, begin, end); });
  }

  static Tensor sum_of_parts(const Tensor& parts, at::ScalarType dtype) {
    const int64_t features = parts.size(1);
    Tensor sum = at::empty({features}, parts.options().dtype(dtype));
    at::parallel_for(0, features, 256, [&](int64_t begin, int64_t end) {
      const auto into = [&](auto* to) {
        using T = std::decay_t<decltype(*to)>;
        add_up(parts.const_data_ptr<Compute<T>>(), parts.size(0), features, to, begin, end);
      };
      void* const to = sum.mutable_data_ptr();
      switch (kernel_dtype(dtype)) {
        case DType::kFloat16:
          return into(static_cast<Half*>(to));
        case DType::kBFloat16:
          return into(static_cast<BFloat16*>(to));
        case DType::kFloat64:
          return into(static_cast<double*>(to));
        default:
          return into(static_cast<float*>(to));
      }
    });
    return sum;
  }
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, CPU, m) { register_row_operations<CpuBackend>(m); }

}  // namespace fused_dropout

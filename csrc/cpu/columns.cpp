// The parts of the rows over PyTorch's threads, and blocks of them through the kernels.
#include "columns.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "instruction_set.h"
#include "long_rows.h"

namespace fused_dropout {
namespace {

// Parts, at most: enough for as many threads, and few enough to add up in a moment.
constexpr int64_t kParts = 128;
// Elements that are written and then added up while a second cache holds them: 256 KiB of float32.
constexpr int64_t kBlock = 65536;
// Rows of a part at least, where a row is long: its sums are then a small part of the memory traffic.
constexpr int64_t kRows = 32;

template <class C, class T>
void add_up(const C* parts, int64_t count, int64_t features, T* to, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    C sum = 0;
    for (int64_t part = 0; part < count; ++part) sum += parts[part * features + i];
    from_compute(sum, to[i]);
  }
}

}  // namespace

int64_t rows_in_part(int64_t rows, int64_t features, int64_t worth) {
  return std::max<int64_t>({1, worth / std::max<int64_t>(features, 1), (rows + kParts - 1) / kParts});
}

int64_t rows_in_sum(int64_t rows, int64_t features) {
  return std::max(rows_in_part(rows, features, kBlock), std::min(rows, kRows));
}

void sums_of_parts(DType dtype, const void* parts, void* const* sums, int number, int64_t count, int64_t features) {
  for (int k = 0; k < number; ++k) {
    at::parallel_for(0, features, 256, [&](int64_t begin, int64_t end) {
      const auto into = [&](auto* to) {
        using C = Compute<std::decay_t<decltype(*to)>>;
        add_up(static_cast<const C*>(parts) + k * count * features, count, features, to, begin, end);
      };
      switch (dtype) {
        case DType::kFloat16:
          return into(static_cast<Half*>(sums[k]));
        case DType::kBFloat16:
          return into(static_cast<BFloat16*>(sums[k]));
        case DType::kFloat64:
          return into(static_cast<double*>(sums[k]));
        default:
          return into(static_cast<float*>(sums[k]));
      }
    });
  }
}

void run_and_sum(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t features, void* sums) {
  const int64_t rows = args.layout.elements(0, args.layout.ndim) / features, in_part = rows_in_sum(rows, features);
  const int64_t in_block = std::max<int64_t>(1, kBlock / features);
  const int64_t bytes = features * (dtype == DType::kFloat64 ? 8 : 4);  // of a row of sums
  const Kernels& family = kernels();
  at::parallel_for(0, pieces(rows, in_part), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      void* const to = static_cast<char*>(sums) + part * bytes;
      std::memset(to, 0, static_cast<size_t>(bytes));
      const int64_t last = std::min(rows, (part + 1) * in_part);
      for (int64_t r = part * in_part; r < last; r += in_block) {
        const int64_t count = std::min(in_block, last - r);
        ElementwiseArgs block = args;
        block.begin(1, dtype, block.layout.narrow(features, r, count));
        const void* const written = block.outputs[0];
        with_long_rows(pipeline, dtype, block, [&](const ElementwiseArgs& rows_of_block) {
          family.elementwise(pipeline, dtype, rows_of_block, 0, elementwise_work(rows_of_block.layout).items);
        });
        family.add_rows(dtype, written, count, features, to);
      }
    }
  });
}

}  // namespace fused_dropout

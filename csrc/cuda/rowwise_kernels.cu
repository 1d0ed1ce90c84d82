// The GPU kernels of every row operation (core/rowwise.h): a team of threads, a warp or a block, works on a row.
//
// Columns are summed up over the rows of a part, which is one team's (columns.h adds up the parts). There is no
// atomic addition: the same bits in every run.
#include "row_team.cuh"
#include "rowwise.h"

namespace fused_dropout {
namespace {

template <class Op, class T, int kTeam, bool kFits>
__global__ void __launch_bounds__(kThreads, kRowBlocks<T, kFits>) rows_kernel(const __grid_constant__ RowArgs a) {
  const int64_t part = static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (part >= a.parts()) return;
  RowTeam<Op, T, kTeam, kFits> team(a);
  constexpr bool kColumns = Op::kColumns > 0;
  if (kColumns && !kFits) team.write_columns(part);  // zeros, to be added to
  const int64_t end = (part + 1) * a.rows_in_part, last = end < a.rows ? end : a.rows;
  for (int64_t r = part * a.rows_in_part; r < last; ++r) team.row(r, part);
  if (kColumns && kFits) team.write_columns(part);
}

struct LaunchRows {
  const RowArgs& args;
  cudaStream_t stream;

  template <class Op, class T>
  cudaError_t operator()() const {
    static_assert(sizeof(RowArgs) <= 4096, "what a kernel's arguments may take on every architecture");
    if (args.features <= kWarp * kGroup * kRowOctets<T>) {
      return launch(rows_kernel<Op, T, kWarp, true>, args, args.parts() * kWarp, stream);
    }
    const bool fits = args.features <= kThreads * kGroup * kRowOctets<T>;
    return launch(fits ? rows_kernel<Op, T, kThreads, true> : rows_kernel<Op, T, kThreads, false>, args,
                  args.parts() * kThreads, stream);
  }
};

}  // namespace

int64_t rows_in_part(int64_t rows) { return rows < kRowParts ? 1 : (rows + kRowParts - 1) / kRowParts; }

cudaError_t launch_rows(RowOperation operation, DType dtype, const RowArgs& args, cudaStream_t stream) {
  return visit_row_operation(operation, dtype, LaunchRows{args, stream});
}

}  // namespace fused_dropout

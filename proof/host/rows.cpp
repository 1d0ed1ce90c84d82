// The row operations, as host.cpp has the others: the CPU's loops for each instruction set, and the CUDA kernels run on
// the host.
#include <cstdlib>

#include "core/layout.cpp"
#include "cpu/row_loops.h"
#if !defined(FD_WITHOUT_CUDA)
#include "cuda/rowwise_kernels.cu"
#endif
#include "paths.h"
#include "row_call.h"

using namespace fused_dropout;

extern "C" int rng_version() { return kRngVersion; }

// One call of `rows_in_part` rows a part; returns whether there is such a path.
extern "C" bool run_row_operation(const char* path, int operation, int dtype, void* const* operands, int ndim,
                                  const int64_t* sizes, const int64_t* strides, const uint64_t* mask_strides,
                                  uint64_t mask_base, uint64_t seed, uint64_t offset, double p, int attend, int masked,
                                  double constant, int64_t rows_in_part) {
  RowArgs args =
      row_args(operands, ndim, sizes, strides, mask_strides, mask_base, attend, masked, constant, seed, offset, p);
  args.rows_in_part = rows_in_part;
  const auto which = static_cast<RowOperation>(operation);
  const auto type = static_cast<DType>(dtype);
#if !defined(FD_WITHOUT_CUDA)
  if (std::string(path) == "cuda on the host") {
    cuda_on_host::first_block = 0;
    cuda_on_host::last_block = UINT64_MAX;
    if (launch_rows(which, type, args, nullptr) != cudaSuccess) std::abort();
    return true;
  }
#endif
  return visit_cpu_path(path, [&](auto isa) { run_rows<decltype(isa)>(which, type, args, 0, args.parts()); });
}

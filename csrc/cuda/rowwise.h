// What the GPU kernels of row operations offer. No torch header on this side of the border.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/rowwise.h"

namespace fused_dropout {

// Rows whose columns are summed up together; from the shape alone.
int64_t rows_in_part(int64_t rows);

// All pointers in `args` are device pointers.
cudaError_t launch_rows(RowOperation operation, DType dtype, const RowArgs& args, cudaStream_t stream);

}  // namespace fused_dropout

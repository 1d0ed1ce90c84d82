// What the GPU kernels of sums over all rows offer: each part of the rows has its own, which are then added up. No
// torch header on this side of the border.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/elementwise.h"

namespace fused_dropout {

// Rows that are summed up together; from the shape alone.
int64_t rows_in_part(int64_t rows, int64_t features);

// Whether launch_and_sum takes such a call, whose output is contiguous rows of `features`.
bool takes_sums(const Layout& layout, int64_t features);

// An elementwise pipeline, by its number in SummedTable. `sums` has a row for each part, of the type computed in.
cudaError_t launch_and_sum(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t features, void* sums,
                           cudaStream_t stream);

// Adds up `count` rows of sums, always in the same order; of one sum or two, whose parts lie one behind the other.
cudaError_t launch_sums_of_parts(DType dtype, const void* parts, void* const* sums, int number, int64_t count,
                                 int64_t features, cudaStream_t stream);

}  // namespace fused_dropout

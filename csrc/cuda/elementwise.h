// What the GPU kernels offer to the operations. No torch header on this side of the border.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/elementwise.h"

namespace fused_dropout {

// All pointers in `args` are device pointers. Launches on `stream` of the current device; never synchronises.
cudaError_t launch_elementwise(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, cudaStream_t stream);

// Stores a state: two words.
cudaError_t launch_write_state(StateSource source, int64_t* state, cudaStream_t stream);

}  // namespace fused_dropout

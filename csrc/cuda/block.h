// What the GPU kernels of DropBlock offer to the operations.
#pragma once

#include <cuda_runtime_api.h>

#include "../core/block.h"

namespace fused_dropout {

// On the stream: makes the mask and adds the number of elements that it keeps.
cudaError_t launch_blocks(const BlockArgs& args, cudaStream_t stream);

}  // namespace fused_dropout

// The kernels for any machine.
#include "block_loops.h"
#include "elementwise_loops.h"
#include "kernels.h"
#include "simd_portable.h"

namespace fused_dropout {

const Kernels kernels_portable{run_elementwise<Portable>, block_masks<Portable>};

}  // namespace fused_dropout

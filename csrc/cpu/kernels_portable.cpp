// The kernels for any machine.
#include "block_loops.h"
#include "column_loops.h"
#include "elementwise_loops.h"
#include "kernels.h"
#include "row_loops.h"
#include "simd_portable.h"

namespace fused_dropout {

const Kernels kernels_portable{run_elementwise<Portable>, block_masks<Portable>, run_rows<Portable>,
                               add_rows<Portable>};

}  // namespace fused_dropout

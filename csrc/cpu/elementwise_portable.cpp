// The elementwise loops for any machine.
#include "elementwise_loops.h"
#include "simd_portable.h"

namespace fused_dropout {

void elementwise_portable(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t begin, int64_t end) {
  visit_elementwise(pipeline, dtype, RunElementwise<Portable>{args, begin, end});
}

}  // namespace fused_dropout

// The one list of row operations: what is compiled for each dtype.
#pragma once

#include "norm.h"
#include "softmax.h"

namespace fused_dropout {

// Calls visit(Operation<C>, T) with the types that an operation and a dtype stand for.
template <class Visitor>
auto visit_row_operation(RowOperation operation, DType dtype, Visitor&& visit) {
  switch (operation) {
    case RowOperation::kLayerNorm:
      return visit_dtype<LayerNorm>(dtype, visit);
    case RowOperation::kLayerNormBackward:
      return visit_dtype<LayerNormBackward>(dtype, visit);
    case RowOperation::kRmsNorm:
      return visit_dtype<RmsNorm>(dtype, visit);
    case RowOperation::kRmsNormBackward:
      return visit_dtype<RmsNormBackward>(dtype, visit);
    case RowOperation::kSoftmax:
      return visit_dtype<SoftmaxDropout>(dtype, visit);
    default:
      return visit_dtype<SoftmaxDropoutBackward>(dtype, visit);
  }
}

}  // namespace fused_dropout

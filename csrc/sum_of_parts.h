// The sum over all rows from the sums of their parts, for every backend.
#pragma once

#include <ATen/ops/empty.h>

#include "border.h"

namespace fused_dropout {

// Over dimension 0, always in the same order.
template <class Backend>
at::Tensor sum_of_parts(const at::Tensor& parts, at::ScalarType dtype) {
  at::Tensor sum = at::empty({parts.size(1)}, parts.options().dtype(dtype));
  Backend::sum_of_parts(kernel_dtype(dtype), parts.const_data_ptr(), parts.size(0), parts.size(1),
                        sum.mutable_data_ptr());
  return sum;
}

}  // namespace fused_dropout

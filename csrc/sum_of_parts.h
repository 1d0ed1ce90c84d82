// The sums over all rows from the sums of their parts, for every backend.
#pragma once

#include <ATen/ops/empty.h>

#include <vector>

#include "border.h"

namespace fused_dropout {

// Of `parts` (sums, parts, features) over its second dimension, always in the same order: a tensor for each sum.
template <class Backend>
std::vector<at::Tensor> sums_of_parts(const at::Tensor& parts, at::ScalarType dtype) {
  std::vector<at::Tensor> sums;
  std::vector<void*> to;
  for (int64_t k = 0; k < parts.size(0); ++k) {
    sums.push_back(at::empty({parts.size(2)}, parts.options().dtype(dtype)));
    to.push_back(sums.back().mutable_data_ptr());
  }
  if (!to.empty()) {
    Backend::sums_of_parts(kernel_dtype(dtype), parts.const_data_ptr(), to, parts.size(1), parts.size(2));
  }
  return sums;
}

}  // namespace fused_dropout

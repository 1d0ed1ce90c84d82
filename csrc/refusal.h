// Tensors that are not dense: refused in words, where the dispatcher would list every key that it knows.
#pragma once

#include <torch/library.h>

#include <string>

namespace fused_dropout {

// For the operation of this schema.
void refuse_other_tensors(torch::Library& m, const std::string& schema);

}  // namespace fused_dropout

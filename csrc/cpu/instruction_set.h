// Which instruction sets this build and this processor have, and which one the kernels use. All give the same bits.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace fused_dropout {

// Best first: "avx512", "avx2", "portable", as far as the processor has them.
std::vector<std::string> available_instruction_sets();

// The one in use: the best, unless the environment variable FUSED_DROPOUT_CPU_CAPABILITY or `use_instruction_set` says
// otherwise. An unknown or unavailable name throws std::invalid_argument.
std::string instruction_set();
void use_instruction_set(const std::string& name);

const Kernels& kernels();

}  // namespace fused_dropout

// The border between PyTorch and the kernels: what an elementwise call is, in plain data.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dtype.h"
#include "layout.h"
#include "mask.h"
#include "table.h"

namespace fused_dropout {

struct ElementwiseArgs {
  void* outputs[kMaxOutputs];
  const void* inputs[kMaxInputs];
  Layout layout;
  StateSource state;
  int64_t* state_out = nullptr;  // where a kernel that draws on the device leaves (seed, offset) for the backward
  ProbabilitySource p;
  Gain gain = Gain::kUpscale;
  const uint64_t* keep_bits = nullptr;  // of a pipeline whose noise is stored: bit i of word w is mask index 64 w + i

  // Moves the operands, of which so many are outputs, by the offsets in `at`, and the mask to its index.
  void begin(int written, DType dtype, const Offsets& at) {
    for (int k = 0; k < layout.operands; ++k) {
      const int64_t bytes = at.operand[k] * bytes_of(dtype);
      if (k < written) {
        outputs[k] = static_cast<char*>(outputs[k]) + bytes;
      } else {
        inputs[k - written] = static_cast<const char*>(inputs[k - written]) + bytes;
      }
    }
    layout.mask_base = at.mask_index;
  }
};

// How many tensors a pipeline of the table writes.
inline int outputs_of(PipelineId pipeline) {
  return KernelTable::visit(pipeline, [](auto row) { return decltype(row)::template Pipeline<float>::kOutputs; });
}

// Calls visit(Pipeline<C>, T) with the types that a pipeline and a dtype stand for: the one list of instantiations.
template <template <class> class Pipeline, class Visitor>
auto visit_dtype(DType dtype, Visitor&& visit) {
  switch (dtype) {
    case DType::kFloat16:
      return visit.template operator()<Pipeline<float>, Half>();
    case DType::kBFloat16:
      return visit.template operator()<Pipeline<float>, BFloat16>();
    case DType::kFloat64:
      return visit.template operator()<Pipeline<double>, double>();
    default:
      return visit.template operator()<Pipeline<float>, float>();
  }
}

// The same for a pipeline of the table, by its number.
template <class Visitor>
auto visit_elementwise(PipelineId pipeline, DType dtype, Visitor&& visit) {
  return KernelTable::visit(pipeline, [&](auto row) {
    using R = decltype(row);
    if constexpr (std::is_same_v<typename R::template Pipeline<float>, KeepMask<float>>) {
      return visit.template operator()<KeepMask<float>, uint8_t>();
    } else {
      return visit_dtype<R::template Pipeline>(dtype, visit);
    }
  });
}

}  // namespace fused_dropout

// The border between PyTorch and the kernels: what an elementwise call is, in plain data.
#pragma once

#include <cstdint>

#include "bias_pipelines.h"
#include "dtype.h"
#include "layout.h"
#include "mask.h"
#include "normal_pipelines.h"

namespace fused_dropout {

struct ElementwiseArgs {
  void* output;
  const void* inputs[kMaxInputs];
  Layout layout;
  StateSource state;
  int64_t* state_out = nullptr;  // where a kernel that draws on the device leaves (seed, offset) for the backward
  ProbabilitySource p;
  Gain gain = Gain::kUpscale;
  const uint64_t* keep_bits = nullptr;  // of a pipeline whose noise is stored: bit i of word w is mask index 64 w + i
};

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

template <class Visitor>
auto visit_elementwise(PipelineId pipeline, DType dtype, Visitor&& visit) {
  switch (pipeline) {
    case PipelineId::kAlphaDropout:
      return visit_dtype<AlphaDropout>(dtype, visit);
    case PipelineId::kDropoutAdd:
      return visit_dtype<DropoutAdd>(dtype, visit);
    case PipelineId::kBiasDropout:
      return visit_dtype<BiasDropout>(dtype, visit);
    case PipelineId::kBiasDropoutAdd:
      return visit_dtype<BiasDropoutAdd>(dtype, visit);
    case PipelineId::kGaussianDropout:
      return visit_dtype<GaussianDropout>(dtype, visit);
    case PipelineId::kZoneout:
      return visit_dtype<Zoneout>(dtype, visit);
    case PipelineId::kDropped:
      return visit_dtype<Dropped>(dtype, visit);
    case PipelineId::kBlockDropout:
      return visit_dtype<BlockDropout>(dtype, visit);
    case PipelineId::kNormalNoise:
      return visit_dtype<NormalNoise>(dtype, visit);
    case PipelineId::kKeepMask:
      return visit.template operator()<KeepMask<float>, uint8_t>();
    default:
      return visit_dtype<Dropout>(dtype, visit);
  }
}

}  // namespace fused_dropout

// The table of pipelines: every backend, the meta device and autograd register the same rows from here.
//
// A Family gives, for a pipeline, a class with the functions of its operations: `random` and `apply`, and for a
// pipeline of one input `random_in_place` and `apply_in_place`. A pipeline that is only a derivative is only applied.
#pragma once

#include <torch/library.h>

#include <string>

#include "core/bias_pipelines.h"
#include "core/normal_pipelines.h"

namespace fused_dropout {

// The name of a pipeline's operation, which is also the public function's.
inline const char* pipeline_name(PipelineId id) {
  switch (id) {
    case PipelineId::kAlphaDropout:
      return "alpha_dropout";
    case PipelineId::kDropoutAdd:
      return "dropout_add";
    case PipelineId::kBiasDropout:
      return "bias_dropout";
    case PipelineId::kBiasDropoutAdd:
      return "bias_dropout_add";
    case PipelineId::kKeepMask:
      return "keep_mask";
    case PipelineId::kGaussianDropout:
      return "gaussian_dropout";
    case PipelineId::kZoneout:
      return "zoneout";
    case PipelineId::kDropped:
      return "dropped";
    case PipelineId::kNormalNoise:
      return "normal_noise";
    default:
      return "dropout";
  }
}

template <class Family, template <class> class Pipeline>
void register_pipeline(torch::Library& m) {
  using Operations = typename Family::template Of<Pipeline>;
  const std::string name = pipeline_name(Pipeline<float>::kId);
  constexpr bool derivative = Pipeline<float>::kId == PipelineId::kDropped;
  if constexpr (Family::kFunctional) {
    m.impl((name + "_apply").c_str(), Operations::apply);
    if constexpr (!derivative) m.impl(name.c_str(), Operations::random);
  }
  if constexpr (Pipeline<float>::kInputs == 1 && !derivative) {
    m.impl((name + "_").c_str(), Operations::random_in_place);
    m.impl((name + "_apply_").c_str(), Operations::apply_in_place);
  }
}

template <class Family>
void register_pipelines(torch::Library& m) {
  register_pipeline<Family, Dropout>(m);
  register_pipeline<Family, AlphaDropout>(m);
  register_pipeline<Family, DropoutAdd>(m);
  register_pipeline<Family, BiasDropout>(m);
  register_pipeline<Family, BiasDropoutAdd>(m);
  register_pipeline<Family, GaussianDropout>(m);
  register_pipeline<Family, Zoneout>(m);
  register_pipeline<Family, Dropped>(m);
}

}  // namespace fused_dropout

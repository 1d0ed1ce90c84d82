// The border between tensors and kernels: every argument is validated here, once, for every operation and device.
//
// A message says what was expected, what came, and what to do.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/ArrayRef.h>

#include <optional>

#include "core/block.h"
#include "core/elementwise.h"
#include "registration.h"

namespace fused_dropout {

// The arguments that every operation ends with (see ops.cpp), after its tensors.
struct MapArgs {
  double p;
  const std::optional<at::Tensor>& p_tensor;
  int64_t gain;
  at::OptionalIntArrayRef mask_strides;
  int64_t mask_base;
  at::OptionalIntArrayRef block;
};

void check_dims(const char* name, int64_t dims);

// `inputs[0]` decides shape, dtype, device and the layout of the output.
void check_inputs(const Facts& facts, at::ArrayRef<at::Tensor> inputs);

// Of rows that have halves.
void check_halves(const Facts& facts, const at::Tensor& input);

void check_map(const Facts& facts, const at::Tensor& like, double p, const std::optional<at::Tensor>& p_tensor,
               int64_t gain, std::optional<size_t> mask_strides, at::OptionalSymIntArrayRef block);
void check_state(const char* name, const at::Tensor& state, c10::Device device);

// p_tensor as float64 on its device, which the arguments built from it point into.
std::optional<at::Tensor> device_p(const std::optional<at::Tensor>& p_tensor);

ElementwiseArgs elementwise_args(at::ArrayRef<at::Tensor> outputs, at::ArrayRef<at::Tensor> inputs, const MapArgs& map,
                                 const std::optional<at::Tensor>& device_p);

// The mask of DropBlock that `block` and `mask_strides` describe, of samples and channels that share it or not.
BlockMap block_map(const at::Tensor& input, const MapArgs& map);

// Without p as a tensor, and where no word lies below p's threshold, nothing is dropped.
bool drops_none(double p, const std::optional<at::Tensor>& p_tensor);

at::Tensor new_state(const at::Tensor& like);
StateSource state_source(const at::Tensor& state);

// The type of what a kernel sees: of a complex element its two parts.
DType kernel_dtype(at::ScalarType dtype);

}  // namespace fused_dropout

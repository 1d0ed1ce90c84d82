// The derivatives of activations as PyTorch's operations, which are differentiable again: for the gradient of a
// gradient, and for tangents of it.
#pragma once

#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/threshold_backward.h>

#include "autograd_node.h"
#include "elementwise_ops.h"

namespace fused_dropout {

template <class Act>
struct Composed;

template <>
struct Composed<Gelu> {
  static Tensor value(const Tensor& x) { return at::gelu(x); }
  static Tensor backward(const Tensor& grad, const Tensor& x) { return at::gelu_backward(grad, x); }
};
template <>
struct Composed<GeluTanh> {
  static Tensor value(const Tensor& x) { return at::gelu(x, "tanh"); }
  static Tensor backward(const Tensor& grad, const Tensor& x) { return at::gelu_backward(grad, x, "tanh"); }
};
template <>
struct Composed<Silu> {
  static Tensor value(const Tensor& x) { return at::silu(x); }
  static Tensor backward(const Tensor& grad, const Tensor& x) {  // at::silu_backward has no derivative
    const Tensor s = at::sigmoid(x);
    return grad.mul(s.mul(x.mul(at::rsub(s, 1)).add(1)));
  }
};
template <>
struct Composed<SquaredRelu> {
  static Tensor backward(const Tensor& grad, const Tensor& x) { return grad.mul(at::relu(x).mul(2)); }
};

// Of a Backward: its outputs, from the dropped gradient and what has been saved.
template <class Backward>
struct ComposedBackward;

template <class Act>
struct ComposedBackward<ActivationBackward<float, Act>> {
  static Tensor of(const Tensor& grad, at::ArrayRef<Tensor> saved) { return Composed<Act>::backward(grad, saved[0]); }
};
template <class Act>
struct ComposedBackward<BiasActivationBackward<float, Act>> {
  static Tensor of(const Tensor& grad, at::ArrayRef<Tensor> saved) {
    return Composed<Act>::backward(grad, saved[0].add(saved[1]));
  }
};
template <>
struct ComposedBackward<ReluDropoutBackward<float>> {
  static Tensor of(const Tensor& grad, at::ArrayRef<Tensor> saved) { return at::threshold_backward(grad, saved[0], 0); }
};
template <>
struct ComposedBackward<Dropout<float>> {
  static Tensor of(const Tensor& grad, at::ArrayRef<Tensor>) { return grad; }
};
template <class Act>
struct ComposedBackward<GatedBackward<float, Act>> {
  static Pair of(const Tensor& grad, at::ArrayRef<Tensor> saved) {
    return {Composed<Act>::backward(grad.mul(saved[1]), saved[0]), grad.mul(Composed<Act>::value(saved[0]))};
  }
};
template <class Act>
struct ComposedBackward<GatedHalvesBackward<float, Act>> {
  static Tensor of(const Tensor& grad, at::ArrayRef<Tensor> saved) {
    const auto [first, second] = halves(saved[0]);
    const Pair grads = ComposedBackward<GatedBackward<float, Act>>::of(grad, {first, second});
    return at::cat({std::get<0>(grads), std::get<1>(grads)}, -1);
  }
};

// `tensors` are the gradient, and what has been saved.
template <class Backward>
Output<Backward> composed(at::ArrayRef<Tensor> tensors, const Tensor& state, const Map& map) {
  static const auto dropout = find<Signatures<1>::Apply>("dropout_apply");
  const Tensor grad = map.apply(dropout, state, map.gain, tensors[0]);
  if constexpr (Backward::kSummed) {
    const Tensor output = ComposedBackward<typename Backward::Kernel>::of(grad, tensors.slice(1));
    return {output, sum_of_rows(output)};
  } else {
    return ComposedBackward<Backward>::of(grad, tensors.slice(1));
  }
}

}  // namespace fused_dropout

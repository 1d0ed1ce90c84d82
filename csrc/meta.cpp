// The operations without data: what torch.compile, FakeTensor and the meta device call. The same checks, symbolic
// sizes, no kernel, and no state drawn.
#include <ATen/ops/empty.h>

#include "elementwise_ops.h"

namespace fused_dropout {
namespace {

using MaskStrides = at::OptionalSymIntArrayRef;

template <template <class> class Pipeline, class Inputs = std::make_index_sequence<kTensorCount<Pipeline<float>>>>
struct Meta;

template <template <class> class Pipeline, size_t... I>
struct Meta<Pipeline, std::index_sequence<I...>> {
  using P = Pipeline<float>;
  static Tensor empty_like(const Tensor& x) { return at::empty_like(x); }

  static void check(at::ArrayRef<Tensor> inputs, double p, const OptionalTensor& p_tensor, int64_t gain,
                    MaskStrides mask_strides, MaskStrides block) {
    check_inputs(facts<P>(), inputs);
    check_map(facts<P>(), inputs[0], p, p_tensor, gain,
              mask_strides ? std::optional<size_t>(mask_strides->size()) : std::nullopt, block);
  }

  static Pair random(TensorRef<I>... inputs, double p, const OptionalTensor& p_tensor, int64_t gain,
                     MaskStrides mask_strides, c10::SymInt, MaskStrides block, OptionalGenerator,
                     const OptionalTensor&) {
    const Tensor tensors[] = {inputs...};
    const auto all = operands<P>(tensors);
    check(all, p, p_tensor, gain, mask_strides, block);
    return {Outputs<P>(tensors, all, empty_like).returned, new_state(all[0])};
  }

  static Output<P> apply(TensorRef<I>... inputs, const Tensor& state, double p, const OptionalTensor& p_tensor,
                         int64_t gain, MaskStrides mask_strides, c10::SymInt, MaskStrides block) {
    const Tensor tensors[] = {inputs...};
    const auto all = operands<P>(tensors);
    check(all, p, p_tensor, gain, mask_strides, block);
    check_state(facts<P>().c_str(), state, all[0].device());
    if constexpr (P::kSummed) {
      return {empty_like(all[0]), at::empty_symint({all[0].sym_size(-1)}, all[0].options())};
    } else {
      return Outputs<P>(tensors, all, empty_like).returned;
    }
  }

  static Tensor random_in_place(Tensor& self, double p, const OptionalTensor& p_tensor, int64_t gain,
                                MaskStrides mask_strides, c10::SymInt, MaskStrides block, OptionalGenerator,
                                const OptionalTensor&) {
    check({self}, p, p_tensor, gain, mask_strides, block);
    return new_state(self);
  }

  static void apply_in_place(Tensor& self, const Tensor& state, double p, const OptionalTensor& p_tensor, int64_t gain,
                             MaskStrides mask_strides, c10::SymInt, MaskStrides block) {
    check({self}, p, p_tensor, gain, mask_strides, block);
    check_state(facts<P>().c_str(), state, self.device());
  }
};

Tensor draw(const Tensor& device_of, OptionalGenerator) { return new_state(device_of); }

Tensor make_state(const Tensor& device_of, int64_t, int64_t) { return new_state(device_of); }

Tensor keep_mask(const Tensor& state, at::SymIntArrayRef shape, double p, const OptionalTensor& p_tensor, int64_t gain,
                 MaskStrides mask_strides, c10::SymInt, MaskStrides block) {
  const Facts& of = facts<KeepMask<float>>();
  Tensor mask = at::empty_symint(shape, state.options().dtype(at::kBool));
  check_state(of.c_str(), state, state.device());
  check_map(of, mask, p, p_tensor, gain, mask_strides ? std::optional<size_t>(mask_strides->size()) : std::nullopt,
            block);
  return mask;
}

Tensor normal_noise(const Tensor& state, at::SymIntArrayRef shape, at::ScalarType dtype, MaskStrides mask_strides,
                    c10::SymInt) {
  const Tensor noise = at::empty_symint(shape, state.options().dtype(dtype));
  check_noise(noise, state, mask_strides ? std::optional<size_t>(mask_strides->size()) : std::nullopt);
  return noise;
}

struct MetaFamily {
  static constexpr bool kFunctional = true;
  template <template <class> class Pipeline>
  using Of = Meta<Pipeline>;
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) {
  register_pipelines<MetaFamily>(m);
  m.impl("draw", &draw);
  m.impl("make_state", &make_state);
  m.impl("keep_mask", &keep_mask);
  m.impl("normal_noise", &normal_noise);
}

}  // namespace fused_dropout

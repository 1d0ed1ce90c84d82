// The elementwise operations, written once: for a pipeline and a backend (CPU, CUDA), and for the meta device.
//
// A backend is these functions:
//   Tensor new_output(const Tensor& like)
//   StateSource draw(generator, int64_t* state)   reserves a state, of which `state` receives a copy now or in `run`
//   void make_state(at::Tensor& state, StateSource)   stores one
//   void run(PipelineId, DType, const ElementwiseArgs&)
//   void run_and_sum<P>(DType, const ElementwiseArgs&, int64_t features, void* sums)   where `sums(layout, features)`
//     says so; of each part of the rows (`rows_in_part`), whose sums `sums_of_parts` adds up
//   void make_blocks(const BlockArgs&)   with `kStoresSeeds`, whether it wants room for the seeds
// Outputs are allocated and every check is made before a state is drawn, so a call that raises draws none.
#pragma once

#include <ATen/MemoryOverlap.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <c10/core/DeviceGuard.h>

#include <array>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "border.h"
#include "registration.h"
#include "sum_of_parts.h"

namespace fused_dropout {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using OptionalGenerator = std::optional<at::Generator>;
using Pair = std::tuple<Tensor, Tensor>;

template <size_t>
using TensorRef = const Tensor&;

inline at::OptionalSymIntArrayRef symbolic(at::OptionalIntArrayRef sizes) {
  return sizes ? at::OptionalSymIntArrayRef(c10::fromIntArrayRefSlow(*sizes)) : std::nullopt;
}

// The halves of the rows of a tensor.
inline Pair halves(const Tensor& x) {
  const c10::SymInt half = x.sym_size(-1) / 2;
  return {x.narrow_symint(-1, 0, half), x.narrow_symint(-1, half, half)};
}

// Over all dimensions but the last, which there must be.
inline Tensor sum_of_rows(const Tensor& x) {
  std::vector<int64_t> rows(static_cast<size_t>(x.dim() - 1));
  std::iota(rows.begin(), rows.end(), 0);
  return rows.empty() ? x.clone() : x.sum(rows);
}

// What the kernels read, from the tensors that the operation is given.
template <class P>
auto operands(at::ArrayRef<Tensor> tensors) {
  if constexpr (P::kHalves) {
    check_halves(facts<P>(), tensors.back());
    std::vector<Tensor> all(tensors.begin(), tensors.end() - 1);
    auto [first, second] = halves(tensors.back());
    all.insert(all.end(), {first, second});
    return all;
  } else {
    return tensors;
  }
}

template <class P>
using Output = std::conditional_t<kReturnsPair<P>, Pair, Tensor>;

// New outputs of a call, as it returns them, and as the kernels write them.
template <class P>
struct Outputs {
  template <class Allocate>
  Outputs(at::ArrayRef<Tensor> tensors, at::ArrayRef<Tensor> inputs, const Allocate& allocate) {
    if constexpr (P::kOutputs == 1) {
      returned = allocate(inputs[0]);
      written = {returned};
    } else if constexpr (P::kHalves) {
      returned = allocate(tensors.back());
      const Pair both = halves(returned);
      written = {std::get<0>(both), std::get<1>(both)};
    } else {
      returned = {allocate(inputs[1]), allocate(inputs[2])};
      written = {std::get<0>(returned), std::get<1>(returned)};
    }
  }
  Output<P> returned;
  std::array<Tensor, P::kOutputs> written;
};

template <class Backend, class P>
struct Calls {
  // `state_source(state_out)` is called when nothing but the kernel is left to do.
  template <class Source>
  static void run(at::ArrayRef<Tensor> outputs, at::ArrayRef<Tensor> inputs, const MapArgs& map, int64_t* state_out,
                  const Source& state_source) {
    const Tensor& output = outputs[0];
    const OptionalTensor p = device_p(map.p_tensor);
    if (map.block && output.numel() != 0) return run_blocks(output, inputs, map, p, state_out, state_source);
    ElementwiseArgs args = elementwise_args(outputs, inputs, map, p);
    args.state_out = state_out;
    args.state = state_source(state_out);
    if (output.numel() == 0 && state_out == nullptr) return;
    Backend::run(kernel_of<P>(), kernel_dtype(output.scalar_type()), args);
  }

  // Two kernels: one makes the mask, a bit an element, and counts it; the other is dropout by that mask, with the
  // fraction that the blocks cover for p.
  template <class Source>
  static void run_blocks(const Tensor& output, at::ArrayRef<Tensor> inputs, const MapArgs& map, const OptionalTensor& p,
                         int64_t* state_out, const Source& state_source) {
    constexpr int64_t kBehind = 4;  // words that a reader may touch behind the last one that it wants
    const BlockMap blocks = block_map(output, map);
    const at::TensorOptions words = output.options().dtype(at::kLong);
    const int64_t masks = blocks.planes() * blocks.words();
    const int64_t seeds = Backend::kStoresSeeds ? blocks.planes() * blocks.seed_words() : 0;
    const Tensor made = at::empty({masks + seeds + kBehind + 1}, words);  // and how many elements are kept
    const Tensor kept = made.narrow(0, masks + seeds, kBehind + 1).zero_().select(0, kBehind);
    // A tensor, since CUDA multiplies by the inverse of a number.
    const Tensor elements = at::full({}, blocks.planes() * blocks.elements(), output.options().dtype(at::kDouble));
    uint64_t* const bits = reinterpret_cast<uint64_t*>(made.mutable_data_ptr<int64_t>());
    const int64_t plane = blocks.words() * 64;
    const int64_t strides[] = {blocks.samples == 1 ? 0 : blocks.channels * plane, blocks.channels == 1 ? 0 : plane,
                               blocks.width, 1};
    const MapArgs stored{map.p, map.p_tensor, map.gain, at::IntArrayRef(strides), 0, std::nullopt};

    ElementwiseArgs args = elementwise_args({output}, inputs, stored, std::nullopt);
    args.keep_bits = bits;
    args.state_out = state_out;
    args.state = state_source(state_out);
    Backend::make_blocks({blocks,
                          args.state,
                          {p ? p->const_data_ptr<double>() : nullptr, Probability::of(map.p)},
                          bits + masks,
                          bits,
                          kept.mutable_data_ptr<int64_t>()});
    const Tensor covered = elements.sub(kept).div_(elements);
    args.p.p_ptr = covered.const_data_ptr<double>();
    Backend::run(kernel_of<BlockDropout<float>>(), kernel_dtype(output.scalar_type()), args);
  }

  // What drops nothing reads no state: evaluation passes one that nobody has written.
  static StateSource given(const Tensor& state, const MapArgs& map) {
    return drops_none(map.p, map.p_tensor) ? StateSource{} : state_source(state);
  }

  static void check(at::ArrayRef<Tensor> inputs, const MapArgs& map) {
    check_inputs(facts<P>(), inputs);
    check_map(facts<P>(), inputs[0], map.p, map.p_tensor, map.gain,
              map.mask_strides ? std::optional<size_t>(map.mask_strides->size()) : std::nullopt, symbolic(map.block));
  }

  // Its elements, and p, are read while others are written.
  static void check_written(const Tensor& self, const MapArgs& map) {
    at::assert_no_internal_overlap(self);
    if (map.p_tensor) at::assert_no_overlap(self, *map.p_tensor);
  }

  static Tensor random_into(at::ArrayRef<Tensor> outputs, at::ArrayRef<Tensor> inputs, const MapArgs& map,
                            const OptionalGenerator& generator) {
    Tensor state = new_state(outputs[0]);
    run(outputs, inputs, map, state.mutable_data_ptr<int64_t>(),
        [&](int64_t* state_out) { return Backend::draw(generator, state_out); });
    return state;
  }

  static Pair random(at::ArrayRef<Tensor> tensors, const MapArgs& map, const OptionalGenerator& generator) {
    const auto inputs = operands<P>(tensors);
    check(inputs, map);
    const c10::DeviceGuard guard(inputs[0].device());
    Outputs<P> outputs(tensors, inputs, Backend::new_output);
    Tensor state = random_into(outputs.written, inputs, map, generator);
    return {std::move(outputs.returned), std::move(state)};
  }

  static Tensor random_in_place(const Tensor& self, const MapArgs& map, const OptionalGenerator& generator) {
    check({self}, map);
    check_written(self, map);
    const c10::DeviceGuard guard(self.device());
    return random_into({self}, {self}, map, generator);
  }

  static Output<P> apply(at::ArrayRef<Tensor> tensors, const Tensor& state, const MapArgs& map) {
    const auto inputs = operands<P>(tensors);
    check(inputs, map);
    check_state(facts<P>().c_str(), state, inputs[0].device());
    const c10::DeviceGuard guard(inputs[0].device());
    if constexpr (P::kSummed) {
      return apply_and_sum(inputs, state, map);
    } else {
      Outputs<P> outputs(tensors, inputs, Backend::new_output);
      run(outputs.written, inputs, map, nullptr, [&](int64_t*) { return given(state, map); });
      return std::move(outputs.returned);
    }
  }

  // In one pass where the rows are counted by one dimension; otherwise the sum is a second one.
  static Pair apply_and_sum(at::ArrayRef<Tensor> inputs, const Tensor& state, const MapArgs& map) {
    const Tensor output = Backend::new_output(inputs[0]);
    const int64_t features = output.size(-1), rows = features == 0 ? 0 : output.numel() / features;
    if (rows > 0 && output.is_contiguous() && !output.is_complex()) {
      const OptionalTensor p = device_p(map.p_tensor);
      ElementwiseArgs args = elementwise_args({output}, inputs, map, p);
      args.state = given(state, map);
      if (Backend::sums(args.layout, features)) {
        const int64_t in_part = Backend::rows_in_part(rows, features);
        const at::ScalarType wide = output.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
        const Tensor parts = at::empty({1, (rows + in_part - 1) / in_part, features}, output.options().dtype(wide));
        Backend::template run_and_sum<P>(kernel_dtype(output.scalar_type()), args, features, parts.mutable_data_ptr());
        return {output, sums_of_parts<Backend>(parts, output.scalar_type())[0]};
      }
    }
    run({output}, inputs, map, nullptr, [&](int64_t*) { return given(state, map); });
    return {output, sum_of_rows(output)};
  }

  static void apply_in_place(const Tensor& self, const Tensor& state, const MapArgs& map) {
    check({self}, map);
    check_state(facts<P>().c_str(), state, self.device());
    check_written(self, map);
    at::assert_no_overlap(self, state);
    const c10::DeviceGuard guard(self.device());
    run({self}, {self}, map, nullptr, [&](int64_t*) { return given(state, map); });
  }
};

// The signatures that the dispatcher knows.
template <class Backend, template <class> class Pipeline,
          class Inputs = std::make_index_sequence<kTensorCount<Pipeline<float>>>>
struct Elementwise;

template <class Backend, template <class> class Pipeline, size_t... I>
struct Elementwise<Backend, Pipeline, std::index_sequence<I...>> {
  using Call = Calls<Backend, Pipeline<float>>;

  static Pair random(TensorRef<I>... inputs, double p, const OptionalTensor& p_tensor, int64_t gain,
                     at::OptionalIntArrayRef mask_strides, int64_t mask_base, at::OptionalIntArrayRef block,
                     OptionalGenerator generator, const OptionalTensor&) {
    return Call::random({inputs...}, {p, p_tensor, gain, mask_strides, mask_base, block}, generator);
  }

  static Output<Pipeline<float>> apply(TensorRef<I>... inputs, const Tensor& state, double p,
                                       const OptionalTensor& p_tensor, int64_t gain,
                                       at::OptionalIntArrayRef mask_strides, int64_t mask_base,
                                       at::OptionalIntArrayRef block) {
    return Call::apply({inputs...}, state, {p, p_tensor, gain, mask_strides, mask_base, block});
  }

  static Tensor random_in_place(Tensor& self, double p, const OptionalTensor& p_tensor, int64_t gain,
                                at::OptionalIntArrayRef mask_strides, int64_t mask_base, at::OptionalIntArrayRef block,
                                OptionalGenerator generator, const OptionalTensor&) {
    return Call::random_in_place(self, {p, p_tensor, gain, mask_strides, mask_base, block}, generator);
  }

  static void apply_in_place(Tensor& self, const Tensor& state, double p, const OptionalTensor& p_tensor, int64_t gain,
                             at::OptionalIntArrayRef mask_strides, int64_t mask_base, at::OptionalIntArrayRef block) {
    Call::apply_in_place(self, state, {p, p_tensor, gain, mask_strides, mask_base, block});
  }
};

inline void check_noise(const Tensor& noise, const Tensor& state, std::optional<size_t> mask_strides) {
  const Facts& of = facts<NormalNoise<float>>();
  check_inputs(of, {noise});
  check_state(of.c_str(), state, state.device());
  check_map(of, noise, 0, std::nullopt, 0, mask_strides, std::nullopt);
}

template <class Backend>
struct States {
  static Tensor draw(const Tensor& device_of, OptionalGenerator generator) {
    const c10::DeviceGuard guard(device_of.device());
    Tensor state = new_state(device_of);
    Backend::make_state(state, Backend::draw(generator, state.mutable_data_ptr<int64_t>()));
    return state;
  }

  static Tensor make_state(const Tensor& device_of, int64_t seed, int64_t offset) {
    const c10::DeviceGuard guard(device_of.device());
    Tensor state = new_state(device_of);
    Backend::make_state(state, {nullptr, nullptr, static_cast<uint64_t>(seed), static_cast<uint64_t>(offset)});
    return state;
  }

  static Tensor keep_mask(const Tensor& state, at::IntArrayRef shape, double p, const OptionalTensor& p_tensor,
                          int64_t gain, at::OptionalIntArrayRef mask_strides, int64_t mask_base,
                          at::OptionalIntArrayRef block) {
    const Facts& of = facts<KeepMask<float>>();
    const c10::DeviceGuard guard(state.device());
    Tensor mask = at::empty(shape, state.options().dtype(at::kBool));
    check_state(of.c_str(), state, state.device());
    check_dims(of.c_str(), mask.dim());
    check_map(of, mask, p, p_tensor, gain, mask_strides ? std::optional<size_t>(mask_strides->size()) : std::nullopt,
              symbolic(block));
    Calls<Backend, KeepMask<float>>::run({mask}, {}, {p, p_tensor, gain, mask_strides, mask_base, block}, nullptr,
                                         [&](int64_t*) { return state_source(state); });
    return mask;
  }

  static Tensor normal_noise(const Tensor& state, at::IntArrayRef shape, at::ScalarType dtype,
                             at::OptionalIntArrayRef mask_strides, int64_t mask_base) {
    const c10::DeviceGuard guard(state.device());
    const Tensor noise = at::empty(shape, state.options().dtype(dtype));
    check_noise(noise, state, mask_strides ? std::optional<size_t>(mask_strides->size()) : std::nullopt);
    Calls<Backend, NormalNoise<float>>::run({noise}, {}, {0, std::nullopt, 0, mask_strides, mask_base, std::nullopt},
                                            nullptr, [&](int64_t*) { return state_source(state); });
    return noise;
  }
};

// What a backend registers.
template <class Backend>
struct BackendFamily {
  static constexpr bool kFunctional = true;
  template <template <class> class Pipeline>
  using Of = Elementwise<Backend, Pipeline>;
};

template <class Backend>
void register_backend(torch::Library& m) {
  register_pipelines<BackendFamily<Backend>>(m);
  m.impl("draw", &States<Backend>::draw);
  m.impl("make_state", &States<Backend>::make_state);
  m.impl("keep_mask", &States<Backend>::keep_mask);
  m.impl("normal_noise", &States<Backend>::normal_noise);
}

}  // namespace fused_dropout

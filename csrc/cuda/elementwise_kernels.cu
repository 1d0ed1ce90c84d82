// The GPU kernels of every elementwise operation: one for operands and mask that are a single row, one for any strides.
//
// Nothing depends on the grid: an element finds its mask index, the index its Philox block. Both kernels work in octets
// of 8 elements, which one Philox block decides where the mask is aligned to it (two where it is not).
#include "decisions.cuh"
#include "elementwise.h"
#include "launch.h"
#include "octet.cuh"
#include "operands.cuh"

namespace fused_dropout {
namespace {

// A warp's tile is 32 octets, or 2 or 4 times as many, and each lane makes the decisions about one of each 32. Accesses
// are of N elements, neighbouring lanes touching neighbouring addresses; a lane whose elements belong to another's
// octet asks it for the keep bits. The end of the tensor, pointers that no vector access may use, and masks that begin
// within an octet go element by element through the same functions.
template <class Pipeline, class T, bool kAligned>
__global__ void __launch_bounds__(kLinearThreads<Pipeline, T>, kLinearBlocks<Pipeline, T>)
    linear_kernel(const __grid_constant__ LinearArgs<Pipeline, T> a) {
  constexpr int kThreads = kLinearThreads<Pipeline, T>, kOctets = kLinearOctets<Pipeline, T>;
  constexpr int kInputs = Pipeline::kInputs, N = kVector<T>, kAccesses = kGroup / N;
  constexpr int64_t kTile = kOctets * kWarp * kGroup;
  constexpr bool kDraws = Pipeline::kNoise != Noise::kNone;
  using Inputs = std::make_index_sequence<kInputs>;
  const int lane = threadIdx.x % kWarp;
  const int64_t tile = (static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp) * kTile;
  const auto loaded = a.common.load();
  const Pipeline& pipeline = loaded.pipeline;
  const Mask& mask = loaded.mask;
  const uint64_t first = a.mask_base + static_cast<uint64_t>(tile);

  // As Decisions take them: all have the first one's upper 32 bits.
  const bool groups = first % kGroup == 0 && static_cast<uint32_t>(first / kGroup) <= 0u - kOctets * kWarp;
  if (kAligned && tile + kTile <= a.numel && (!kDraws || groups)) {
    const auto place = [&](int n, int j) { return tile + (n * kAccesses + j) * (kWarp * N) + lane * N; };
    Packed<T, N> x[kOctets][kAccesses][kInputs + 1], y[kOctets][kAccesses][Pipeline::kOutputs];
    const auto each = [](const auto& access) {
#pragma unroll
      for (int n = 0; n < kOctets; ++n) {
#pragma unroll
        for (int j = 0; j < kAccesses; ++j) access(n, j);
      }
    };
    // All loads are under way before the mask is made.
    uint32_t column = a.column(place(0, 0));
    each([&](int n, int j) {
      a.load(place(n, j), column, x[n][j]);
      a.move_on(column);
    });
    const auto by_bits = [&](uint32_t bits) {
      each([&](int n, int j) {
        const uint32_t octet = N == kGroup ? bits : octet_of<N>(bits, j, lane);
        compute<N>(pipeline, octet >> (kGroup * n), x[n][j], y[n][j], Inputs{});
      });
    };
    const auto put = [&] { each([&](int n, int j) { store_outputs(a.operands, place(n, j), y[n][j]); }); };
    if constexpr (kDraws) {
      const uint64_t group = first / kGroup + static_cast<uint64_t>(lane);
      const Decisions<kOctets> decisions(mask, group);
      if constexpr (N == kGroup && !Pipeline::kLong) {
        if (decisions.ties()) {  // with stores of its own, or nvcc moves the results to where both have them
          by_bits(keep_groups<kOctets>(mask, group));
          put();
          return;
        }
        each([&](int n, int j) { compute<N>(pipeline, decisions.of(n), x[n][j], y[n][j], Inputs{}); });
      } else {
        uint32_t bits = decisions.bits();
        if (decisions.ties()) bits = keep_groups<kOctets>(mask, group);
        by_bits(bits);
      }
    } else {
      by_bits(0);
    }
    put();
    return;
  }
#pragma unroll 1
  for (int64_t octets = tile; octets < tile + kTile; octets += kWarp * kGroup) {
    const uint32_t octet = kDraws ? keep_octet(mask, first + static_cast<uint64_t>(octets - tile + lane * kGroup)) : 0;
#pragma unroll 1
    for (int j = 0; j < kGroup; ++j) {
      const uint32_t bits = octet_of<1>(octet, j, lane);
      const int64_t at = octets + j * kWarp + lane;
      if (at >= a.numel) continue;
      Packed<T, 1> one[kInputs + 1], y[Pipeline::kOutputs];
      a.load(at, a.column(at), one);
      compute<1>(pipeline, bits, one, y, Inputs{});
      store_outputs(a.operands, at, y);
    }
  }
}

// A thread takes 8 neighbours of a run.
template <class Pipeline, class T>
__global__ void __launch_bounds__(kThreads, kStridedBlocks<T, kStridedOperands<Pipeline>>)
    strided_kernel(const __grid_constant__ StridedArgs<Pipeline, T> a) {
  constexpr int kInputs = Pipeline::kInputs, kOutputs = Pipeline::kOutputs;
  const Mask mask = a.common.load_mask();
  const Pipeline pipeline = a.common.load_pipeline();
  const Layout& layout = a.layout;

  const int64_t octet = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t run = octet / a.octets_in_run;
  if (run >= a.runs) return;
  const int64_t from = (octet - run * a.octets_in_run) * kGroup, left = a.run - from;
  const int count = static_cast<int>(left < kGroup ? left : kGroup);
  const Offsets at = layout.at<kOutputs + kInputs>(run, layout.flat);

  constexpr bool kNormal = Pipeline::kNoise == Noise::kNormal;
  const auto keep = [&]() -> uint32_t {
    if constexpr (Pipeline::kNoise == Noise::kStored) {
      return keep_in_run(StoredMask{a.keep_bits}, layout, at.mask_index, from, count);
    } else if constexpr (Pipeline::kNoise != Noise::kNone) {
      return keep_in_run(mask, layout, at.mask_index, from, count);
    }
    return 0;
  };

  const MaskPlace place = kNormal ? layout.mask_at(at.mask_index, from) : MaskPlace{};
  const bool group = layout.mask_stride[0] == 1 && place.index % kGroup == 0 && place.left >= kGroup;
  if (a.vectors && count == kGroup && (!kNormal || group)) {  // all loads are under way before the mask is made
    constexpr int N = kVector<T>, kAccesses = kGroup / N;
    Packed<T, N> x[kAccesses][kInputs + 1];
    const auto put = [&](const auto& decisions_from) {
#pragma unroll
      for (int j = 0; j < kAccesses; ++j) a.store(at, from + j * N, pipeline, decisions_from(j * N), x[j]);
    };
#pragma unroll
    for (int j = 0; j < kAccesses; ++j) a.load(at, from + j * N, x[j]);
    if constexpr (kNormal) {
      Compute<T> z[kGroup];
      normal_group(mask, place.index / kGroup, z);
      put([&](int i) { return z + i; });
    } else {
      const uint32_t bits = keep();
      put([&](int i) { return bits >> i; });
    }
    return;
  }
  const uint32_t bits = kNormal ? 0 : keep();
  for (int i = 0; i < count; ++i) {
    Packed<T, 1> one[kInputs + 1];
    a.load(at, from + i, one);
    if constexpr (kNormal) {
      const Compute<T> z = normal_one<Compute<T>>(mask.seed, mask.step, layout.mask_at(at.mask_index, from + i).index);
      a.store(at, from + i, pipeline, &z, one);
    } else {
      a.store(at, from + i, pipeline, bits >> i, one);
    }
  }
}

struct WriteStateArgs {
  StateSource source;
  int64_t* state;
};
__global__ void write_state_kernel(WriteStateArgs a) { load_state(a.source, a.state); }

// Every address that a vector access of operand k would use is a multiple of its size.
template <class T>
bool aligned(const void* p, const Layout& l, int k) {
  bool all = reinterpret_cast<uintptr_t>(p) % (sizeof(T) * kVector<T>) == 0;
  for (int d = l.flat; d < l.ndim; ++d) all = all && l.stride[k][d] % kVector<T> == 0;
  return all;
}

struct Launch {
  const ElementwiseArgs& args;
  cudaStream_t stream;

  template <class Pipeline, class T>
  cudaError_t operator()() const {
    const Layout& layout = args.layout;
    const Common<Pipeline> common = Common<Pipeline>::of(args);
    constexpr int kOutputs = Pipeline::kOutputs;
    Operands<Pipeline, T> operands{};
    bool vectors = layout.unit_inner_strides();
    for (int k = 0; k < kOutputs; ++k) {
      operands.y[k] = static_cast<T*>(args.outputs[k]);
      vectors = vectors && aligned<T>(args.outputs[k], layout, k);
    }
    for (int k = 0; k < Pipeline::kInputs; ++k) {
      operands.x[k] = static_cast<const T*>(args.inputs[k]);
      vectors = vectors && aligned<T>(args.inputs[k], layout, kOutputs + k);
    }
    if constexpr (Pipeline::kNoise == Noise::kBernoulli || Pipeline::kNoise == Noise::kNone) {
      constexpr bool kBiased = Pipeline::kBias >= 0;
      constexpr int kElements = kGroup * kLinearOctets<Pipeline, T>;
      const int64_t numel = layout.elements(0, layout.ndim), features = layout.size[0];
      const auto run = [&](auto* kernel) {
        const uint32_t row = kBiased && features > 0 ? static_cast<uint32_t>(features) : 1;
        const LinearArgs<Pipeline, T> a{common, operands, numel, layout.mask_base, row, kWarp * kVector<T> % row};
        return launch(kernel, a, (numel + kElements - 1) / kElements, stream, kLinearThreads<Pipeline, T>);
      };
      const bool linear = layout.linear(kBiased ? kOutputs + Pipeline::kBias : -1);
      if (linear && vectors && (!kBiased || features >> 31 == 0)) return run(linear_kernel<Pipeline, T, true>);
      if constexpr (!kBiased) {
        if (linear) return run(linear_kernel<Pipeline, T, false>);
      }
    }
    const int64_t runs = layout.runs(), run = layout.run();
    const int64_t octets = run == 0 ? 1 : (run + kGroup - 1) / kGroup;  // to divide by
    const StridedArgs<Pipeline, T> a{common, operands, layout, args.keep_bits, runs, run, octets, vectors};
    return launch(strided_kernel<Pipeline, T>, a, runs * octets, stream);
  }
};

}  // namespace

cudaError_t launch_elementwise(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, cudaStream_t stream) {
  return visit_elementwise(pipeline, dtype, Launch{args, stream});
}

cudaError_t launch_write_state(StateSource source, int64_t* state, cudaStream_t stream) {
  return launch(write_state_kernel, WriteStateArgs{source, state}, 1, stream);
}

}  // namespace fused_dropout

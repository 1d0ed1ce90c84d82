// The GPU kernels of every elementwise operation: one for operands and mask that are a single run, one for any strides.
//
// Nothing depends on the grid: an element finds its mask index, the index its Philox block. Both kernels work in octets
// of 8 elements, which one Philox block decides where the mask is aligned to it (two where it is not).
#include "elementwise.h"

#include <utility>

#include "geometry.h"
#include "vector.cuh"

namespace fused_dropout {
namespace {

template <class Pipeline, class T>
struct Operands {
  T* y;
  const T* x[kMaxInputs];
};

// Computes N elements whose keep bits are the lowest of `bits`; with N = 1 this is the tail and the strided access.
template <int N, class Pipeline, class T, size_t... K>
__device__ __forceinline__ void compute(const Pipeline& pipeline, uint32_t bits,
                                        const Packed<T, N> (&x)[Pipeline::kInputs + 1], Packed<T, N>& y,
                                        std::index_sequence<K...>) {
  using C = Compute<T>;
  C in[Pipeline::kInputs + 1][N], out[N];
  (Convert<T>::template up<N>(x[K], in[K]), ...);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const bool keep = bits >> i & 1;
    if constexpr (Pipeline::kInputs == 0) {
      out[i] = pipeline(keep, C(0));
    } else {
      out[i] = pipeline(keep, in[K][i]...);
    }
  }
  Convert<T>::template down<N>(out, y);
}

// The keep bits of 8 consecutive mask indices, from any index on.
__device__ __forceinline__ uint32_t keep_octet(const Mask& mask, uint64_t mask_index) {
  const uint32_t skip = static_cast<uint32_t>(mask_index % kGroup);
  uint32_t bits = mask.keep_group(mask_index / kGroup) >> skip;
  if (skip) bits |= mask.keep_group(mask_index / kGroup + 1) << (kGroup - skip);
  return bits;
}

// A kernel that drew its state on the device leaves a copy for the backward.
__device__ __forceinline__ State load_state(const StateSource& source, int64_t* state_out) {
  const State state = source.load();
  if (state_out != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    state_out[0] = static_cast<int64_t>(state.seed);
    state_out[1] = static_cast<int64_t>(state.offset & ~uint64_t{3});
  }
  return state;
}

// What both kernels start from. The pipeline is made on the host where p is known there: it takes divisions in float64.
template <class Pipeline>
struct Common {
  Pipeline pipeline;
  StateSource state;
  int64_t* state_out;
  ProbabilitySource p;
  Gain gain;

  __device__ __forceinline__ Pipeline load_pipeline() const {
    return p.p_ptr == nullptr ? pipeline : Pipeline(p.load(), gain);
  }
  __device__ __forceinline__ Mask load_mask() const { return Mask(load_state(state, state_out), p.load()); }
};

template <class Pipeline, class T>
struct LinearArgs {
  Common<Pipeline> common;
  Operands<Pipeline, T> operands;
  int64_t numel;
  uint64_t mask_base;
};

// A warp's tile is kOctets * 32 octets. Each lane makes the keep bits of kOctets of them; accesses are of N elements, so
// that neighbouring lanes touch neighbouring addresses, and a lane whose elements belong to another's octet asks it.
template <int N, class Pipeline, class T>
__device__ __forceinline__ void linear_tile(const Pipeline& pipeline, const Mask& mask, const LinearArgs<Pipeline, T>& a,
                                            int64_t tile_start, int lane) {
  constexpr int kInputs = Pipeline::kInputs;
  constexpr int kAccesses = kOctets<T> * kGroup / N;
  using Inputs = std::make_index_sequence<kInputs>;

  Packed<T, N> x[kAccesses][kInputs + 1];
#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    const int64_t at = tile_start + (j * kWarp + lane) * N;
    if (N == 1 && at >= a.numel) continue;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) x[j][k] = *reinterpret_cast<const Packed<T, N>*>(a.operands.x[k] + at);
  }

  uint32_t octet[kOctets<T>];
#pragma unroll
  for (int k = 0; k < kOctets<T>; ++k) {
    octet[k] = keep_octet(mask, a.mask_base + static_cast<uint64_t>(tile_start + (k * kWarp + lane) * kGroup));
  }

#pragma unroll
  for (int j = 0; j < kAccesses; ++j) {
    const int64_t at = tile_start + (j * kWarp + lane) * N;
    uint32_t bits = octet[j * N / kGroup];
    if (N != kGroup) {
      const int owner = (j * kWarp + lane) * N / kGroup % kWarp;
      bits = __shfl_sync(0xffffffffu, bits, owner) >> (lane * N % kGroup);
    }
    if (N == 1 && at >= a.numel) continue;
    Packed<T, N> y;
    compute<N>(pipeline, bits, x[j], y, Inputs{});
    *reinterpret_cast<Packed<T, N>*>(a.operands.y + at) = y;
  }
}

template <class Pipeline, class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) linear_kernel(const LinearArgs<Pipeline, T> a) {
  constexpr int64_t kTile = kOctets<T> * kWarp * kGroup;
  const Mask mask = a.common.load_mask();
  const Pipeline pipeline = a.common.load_pipeline();
  const int lane = threadIdx.x % kWarp;
  const int64_t tile_start = (static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp) * kTile;
  if (tile_start >= a.numel) return;
  if (kAligned && tile_start + kTile <= a.numel) {
    linear_tile<kVector<T>>(pipeline, mask, a, tile_start, lane);
  } else {
    linear_tile<1>(pipeline, mask, a, tile_start, lane);
  }
}

template <class Pipeline, class T>
struct StridedArgs {
  Common<Pipeline> common;
  Operands<Pipeline, T> operands;
  Layout layout;
  int64_t octets_in_row;
  bool vectors;  // inner strides are 1, and every row of every operand starts at a multiple of 16 bytes
};

// A thread takes 8 neighbours along the innermost dimension.
template <class Pipeline, class T>
__global__ void __launch_bounds__(kThreads) strided_kernel(const __grid_constant__ StridedArgs<Pipeline, T> a) {
  constexpr int kInputs = Pipeline::kInputs;
  using Inputs = std::make_index_sequence<kInputs>;
  const Mask mask = a.common.load_mask();
  const Pipeline pipeline = a.common.load_pipeline();
  const Layout& layout = a.layout;

  const int64_t octet = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = octet / a.octets_in_row;
  if (row >= layout.rows()) return;
  const int64_t column = (octet - row * a.octets_in_row) * kGroup;
  Offsets at = layout.at(row);
  layout.step(at, 0, column);
  const int64_t left = layout.size[0] - column;
  const int count = static_cast<int>(left < kGroup ? left : kGroup);

  const uint64_t mask_stride = layout.mask_stride[0];
  uint32_t bits = 0;
  if (mask_stride == 1) {
    bits = keep_octet(mask, at.mask_index);
  } else if (mask_stride == 0) {
    bits = mask.keep(at.mask_index) ? 0xffu : 0u;
  } else {
    for (int i = 0; i < count; ++i) {
      bits |= static_cast<uint32_t>(mask.keep(at.mask_index + static_cast<uint64_t>(i) * mask_stride)) << i;
    }
  }

  const auto run = [&](auto width, int first) {
    constexpr int N = decltype(width)::value;
    Packed<T, N> x[kInputs + 1], y;
#pragma unroll
    for (int k = 0; k < kInputs; ++k) {
      x[k] = *reinterpret_cast<const Packed<T, N>*>(a.operands.x[k] + at.operand[k + 1] +
                                                    first * layout.stride[k + 1][0]);
    }
    compute<N>(pipeline, bits >> first, x, y, Inputs{});
    *reinterpret_cast<Packed<T, N>*>(a.operands.y + at.operand[0] + first * layout.stride[0][0]) = y;
  };
  if (a.vectors && count == kGroup) {
#pragma unroll
    for (int i = 0; i < kGroup; i += kVector<T>) run(std::integral_constant<int, kVector<T>>{}, i);
  } else {
    for (int i = 0; i < count; ++i) run(std::integral_constant<int, 1>{}, i);
  }
}

__global__ void write_state_kernel(StateSource source, int64_t* state) { load_state(source, state); }

// Every address that a vector access of operand k would use is a multiple of its size.
template <class T>
bool aligned(const void* p, const Layout& l, int k) {
  bool all = reinterpret_cast<uintptr_t>(p) % (sizeof(T) * kVector<T>) == 0;
  for (int d = 1; d < l.ndim; ++d) all = all && l.stride[k][d] % kVector<T> == 0;
  return all;
}

struct Launch {
  const ElementwiseArgs& args;
  cudaStream_t stream;

  template <class Pipeline, class T>
  cudaError_t operator()() const {
    const Layout& layout = args.layout;
    const Common<Pipeline> common{Pipeline(args.p.value, args.gain), args.state, args.state_out, args.p, args.gain};
    Operands<Pipeline, T> operands{static_cast<T*>(args.output), {}};
    bool vectors = layout.unit_inner_strides() && aligned<T>(args.output, layout, 0);
    for (int k = 0; k < Pipeline::kInputs; ++k) {
      operands.x[k] = static_cast<const T*>(args.inputs[k]);
      vectors = vectors && aligned<T>(args.inputs[k], layout, k + 1);
    }
    if (layout.linear()) {
      const LinearArgs<Pipeline, T> a{common, operands, layout.size[0], layout.mask_base};
      const int64_t per_thread = kOctets<T> * kGroup;
      const unsigned blocks = blocks_for((layout.size[0] + per_thread - 1) / per_thread);
      if (vectors) {
        linear_kernel<Pipeline, T, true><<<blocks, kThreads, 0, stream>>>(a);
      } else {
        linear_kernel<Pipeline, T, false><<<blocks, kThreads, 0, stream>>>(a);
      }
    } else {
      const int64_t octets = (layout.size[0] + kGroup - 1) / kGroup;
      const StridedArgs<Pipeline, T> a{common, operands, layout, octets, vectors};
      strided_kernel<Pipeline, T><<<blocks_for(layout.rows() * octets), kThreads, 0, stream>>>(a);
    }
    return cudaGetLastError();
  }
};

}  // namespace

cudaError_t launch_elementwise(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, cudaStream_t stream) {
  return visit_elementwise(pipeline, dtype, Launch{args, stream});
}

cudaError_t launch_write_state(StateSource source, int64_t* state, cudaStream_t stream) {
  write_state_kernel<<<1, 1, 0, stream>>>(source, state);
  return cudaGetLastError();
}

}  // namespace fused_dropout

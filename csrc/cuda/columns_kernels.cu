// The GPU kernels of sums over all rows: an elementwise pipeline that adds up what it writes, and the sum of the parts.
//
// A block takes 256 columns of a part of the rows. A lane keeps its 8 columns while its warp goes through every eighth
// row, so that their sums stay in registers; the warps meet in shared memory. There is no atomic addition: the same
// bits in every run.
#include "columns.h"
#include "launch.h"
#include "octet.cuh"
#include "operands.cuh"
#include "row_memory.cuh"

namespace fused_dropout {
namespace {

constexpr int kWarps = kThreads / kWarp;
constexpr int kTileColumns = kWarp * kGroup;
int64_t tiles_of(int64_t features) { return (features + kTileColumns - 1) / kTileColumns; }
static_assert(kTileColumns == kThreads, "in the end a thread adds up one column");

template <class Pipeline, class T>
struct AndSumArgs {
  Common<Pipeline> common;
  Operands<Pipeline, T> operands;
  int64_t rows, features, rows_in_part, tiles;
  int64_t row_stride[Pipeline::kInputs];  // the output's is `features`
  uint64_t mask_base, mask_row_stride;
  Compute<T>* sums;
};

template <class Pipeline, class T>
__device__ __forceinline__ uint32_t keep(const AndSumArgs<Pipeline, T>& a, const Mask& mask, int64_t r,
                                         int64_t column) {
  if constexpr (Pipeline::kNoise == Noise::kNone) return 0;
  return keep_octet(mask, a.mask_base + static_cast<uint64_t>(r) * a.mask_row_stride + static_cast<uint64_t>(column));
}

template <class Pipeline, int kInputs, class C, size_t... K>
__device__ __forceinline__ void pipe(const Pipeline& pipeline, uint32_t bits, const C (&x)[kInputs][kGroup],
                                     C (&y)[kGroup], std::index_sequence<K...>) {
#pragma unroll
  for (int e = 0; e < kGroup; ++e) y[e] = pipeline(decision(bits, e), x[K][e]...);
}

// The sums take registers as one operand more would.
template <class Pipeline, class T>
__global__ void __launch_bounds__(kThreads, kStridedBlocks<T, 2 + Pipeline::kInputs>)
    and_sum_kernel(const __grid_constant__ AndSumArgs<Pipeline, T> a) {
  using C = Compute<T>;
  constexpr int kInputs = Pipeline::kInputs, kRows = sizeof(T) == 8 ? 1 : 2;  // of a warp at once
  __shared__ C of_warp[kWarps][kTileColumns];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t part = blockIdx.x / a.tiles, first_column = blockIdx.x % a.tiles * kTileColumns;
  const int64_t column = first_column + lane * kGroup, left = a.features - column;
  const int64_t end = (part + 1) * a.rows_in_part, last = end < a.rows ? end : a.rows;
  const Pipeline pipeline = a.common.load_pipeline();
  const Mask mask = a.common.load_mask();

  C sum[kGroup] = {};
  for (int64_t first = part * a.rows_in_part + warp; first < last && left > 0; first += kWarps * kRows) {
    Octet<T> octet[kRows][kInputs];
#pragma unroll
    for (int j = 0; j < kRows; ++j) {  // all loads are under way before a mask is made
      const int64_t r = first + j * kWarps;
#pragma unroll
      for (int k = 0; k < kInputs && r < last; ++k) {
        octet[j][k].load(global(a.operands.x[k] + r * a.row_stride[k] + column), left, C(0));
      }
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int64_t r = first + j * kWarps;
      if (r >= last) break;
      C x[kInputs][kGroup], y[kGroup];
#pragma unroll
      for (int k = 0; k < kInputs; ++k) octet[j][k].convert(x[k]);
      pipe(pipeline, keep(a, mask, r, column), x, y, std::make_index_sequence<kInputs>{});
      store_octet(a.operands.y[0] + r * a.features + column, left, y);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) sum[e] = sum[e] + rounded<T>(y[e]);
    }
  }

#pragma unroll
  for (int e = 0; e < kGroup; ++e) of_warp[warp][lane * kGroup + e] = sum[e];
  __syncthreads();
  const int64_t mine = first_column + threadIdx.x;
  if (mine >= a.features) return;
  C total = of_warp[0][threadIdx.x];
  for (int w = 1; w < kWarps; ++w) total = total + of_warp[w][threadIdx.x];
  a.sums[part * a.features + mine] = total;
}

struct LaunchAndSum {
  const ElementwiseArgs& args;
  int64_t features;
  void* sums;
  cudaStream_t stream;

  template <class Pipeline, class T>
  cudaError_t operator()() const {
    const Layout& layout = args.layout;
    const int64_t rows = layout.elements(0, layout.ndim) / features;
    AndSumArgs<Pipeline, T> a{Common<Pipeline>::of(args),
                              {},
                              rows,
                              features,
                              rows_in_part(rows, features),
                              tiles_of(features),
                              {},
                              layout.mask_base,
                              layout.mask_row_stride(features),
                              static_cast<Compute<T>*>(sums)};
    a.operands.y[0] = static_cast<T*>(args.outputs[0]);
    for (int k = 0; k < Pipeline::kInputs; ++k) {
      a.operands.x[k] = static_cast<const T*>(args.inputs[k]);
      a.row_stride[k] = layout.row_stride(1 + k, features);
    }
    const int64_t parts = (rows + a.rows_in_part - 1) / a.rows_in_part;
    return launch(and_sum_kernel<Pipeline, T>, a, parts * a.tiles * kThreads, stream);
  }
};

constexpr int kMaxSums = 2;  // of a weight and a bias

struct SumArgs {
  const void* parts;
  int64_t count, features, blocks;  // blocks of a sum
  void* sums[kMaxSums];
};

// A warp's lanes are columns, its warps are every 32nd part, of which four loads are under way; they meet in shared
// memory.
template <class T>
__global__ void __launch_bounds__(kSumThreads) sums_of_parts_kernel(const __grid_constant__ SumArgs a) {
  using C = Compute<T>;
  constexpr int kSumWarps = kSumThreads / kWarp;
  __shared__ C of_warp[kSumWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t which = blockIdx.x / a.blocks, column = blockIdx.x % a.blocks * kWarp + lane;
  const C* const parts = static_cast<const C*>(a.parts) + which * a.count * a.features + column;
  C sum = 0;
  if (column < a.features) {
#pragma unroll 4
    for (int64_t part = warp; part < a.count; part += kSumWarps) sum = sum + parts[part * a.features];
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= a.features) return;
  for (int w = 1; w < kSumWarps; ++w) sum = sum + of_warp[w][lane];
  const C one[1] = {sum};
  Packed<T, 1> packed;
  Convert<T>::template down<1>(one, packed);
  store(static_cast<T*>(a.sums[which]) + column, packed);
}

struct LaunchSums {
  const SumArgs& args;
  int number;
  cudaStream_t stream;

  template <class T>
  cudaError_t of() const {
    return launch(sums_of_parts_kernel<T>, args, number * args.blocks * kSumThreads, stream, kSumThreads);
  }
};

}  // namespace

int64_t rows_in_part(int64_t rows, int64_t features) {
  const int64_t parts = kSumBlocks / tiles_of(features), wanted = parts < 1 ? 1 : parts;
  const int64_t in_part = (rows + wanted - 1) / wanted;
  return in_part < kWarps ? kWarps : in_part;
}

bool takes_sums(const Layout& layout, int64_t features) {
  return layout.ndim <= 2 && layout.counts_rows(features) && layout.unit_inner_strides() && layout.mask_stride[0] == 1;
}

cudaError_t launch_and_sum(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t features, void* sums,
                           cudaStream_t stream) {
  const LaunchAndSum launch{args, features, sums, stream};
  return SummedTable::visit(pipeline,
                            [&](auto row) { return visit_dtype<decltype(row)::template Pipeline>(dtype, launch); });
}

cudaError_t launch_sums_of_parts(DType dtype, const void* parts, void* const* sums, int number, int64_t count,
                                 int64_t features, cudaStream_t stream) {
  SumArgs args{parts, count, features, features == 0 ? 1 : (features + kWarp - 1) / kWarp, {}};
  for (int k = 0; k < number; ++k) args.sums[k] = sums[k];
  const LaunchSums launch{args, number, stream};
  switch (dtype) {
    case DType::kFloat16:
      return launch.of<Half>();
    case DType::kBFloat16:
      return launch.of<BFloat16>();
    case DType::kFloat64:
      return launch.of<double>();
    default:
      return launch.of<float>();
  }
}

}  // namespace fused_dropout

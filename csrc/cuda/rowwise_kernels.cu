// The GPU kernels of every row operation (core/rowwise.h): a team of threads, a warp or a block, works on a row.
//
// A thread takes octets of 8 neighbours, which a Philox block decides. What is kept of them stays in registers where a
// row is short enough for that; otherwise it is made again for each round, from memory that is then in a cache. Columns
// are summed up over the rows of a part, which is one team's, in registers or, of long rows, in memory that nobody else
// touches; a second kernel adds up the parts. There is no atomic addition: the same bits in every run.
#include "row.cuh"
#include "rowwise.h"

namespace fused_dropout {
namespace {

template <class Op, class T, int kTeam, bool kFits>
struct RowTeam {
  using C = Compute<T>;
  static constexpr int kKept = Op::kKept, kSums = Op::kSums;
  static constexpr bool kHolds = kFits && !Op::kRecomputes, kAddsInRegisters = kFits && Op::kColumns > 0;
  static constexpr int kHeld = kHolds ? kRowOctets : 1, kAdded = kAddsInRegisters ? kRowOctets : 1;

  const RowArgs& a;
  const Mask mask;
  Op op;
  const int thread = threadIdx.x % kTeam;
  int64_t from = 0;  // of the row: its first element
  Offsets at{};
  C held[kHeld][kKept][kGroup];
  C added[Op::kColumns + 1][kAdded][kGroup] = {};

  __device__ explicit RowTeam(const RowArgs& args)
      : a(args), mask(args.state.load(), args.p.load()), op(RowConstants<C>(args, args.p.load())) {}

  // Calls body(j, i) for the thread's octets: number j begins at element i of the row.
  template <class Body>
  __device__ __forceinline__ void each_octet(const Body& body) const {
    if constexpr (kFits) {
#pragma unroll
      for (int j = 0; j < kRowOctets; ++j) {
        const int64_t i = static_cast<int64_t>(j * kTeam + thread) * kGroup;
        if (i < a.features) body(j, i);
      }
    } else {
      for (int64_t i = thread * kGroup; i < a.features; i += kTeam * kGroup) body(0, i);
    }
  }

  __device__ __forceinline__ uint32_t keep(int64_t i) const {
    if (!a.masked) return 0xff;
    const uint64_t index = at.mask_index + static_cast<uint64_t>(i) * a.mask_stride;
    if (a.mask_stride == 1) return keep_octet(mask, index);
    uint32_t bits = 0;
    for (int e = 0; e < kGroup; ++e) {
      bits |= static_cast<uint32_t>(mask.keep(index + static_cast<uint64_t>(e) * a.mask_stride)) << e;
    }
    return bits;
  }

  __device__ __forceinline__ void load(const void* p, int64_t i, C otherwise, C (&x)[kGroup], int64_t begin) const {
    load_octet(p ? static_cast<const T*>(p) + begin + i : nullptr, a.features - i, otherwise, x);
  }
  __device__ __forceinline__ void store(void* p, int64_t i, const C (&x)[kGroup]) const {
    if (p != nullptr) store_octet(static_cast<T*>(p) + from + i, a.features - i, x);
  }

  __device__ __forceinline__ void attend(int64_t i, C (&x)[kGroup]) const {
    C bias[kGroup];
    const bool biased = a.attend == Attend::kBiased, some = a.attend == Attend::kSome;
    load(biased ? a.attn_mask : nullptr, i, C(0), bias, at.operand[1]);
    const uint8_t* const takes_part = static_cast<const uint8_t*>(a.attn_mask) + at.operand[1] + i;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      x[e] = x[e] * op.row.constant;
      if (biased) x[e] = x[e] + bias[e];
      if (some && i + e < a.features && takes_part[e] == 0) x[e] = -static_cast<C>(HUGE_VAL);
    }
  }

  // What is kept of an octet, made from the inputs.
  __device__ __forceinline__ void make(int64_t i, C (&kept)[kKept][kGroup]) const {
    C x[Op::kInputs][kGroup];
#pragma unroll
    for (int k = 0; k < Op::kInputs; ++k) load(a.input[k], i, C(0), x[k], from);
    if constexpr (Op::kAttends) attend(i, x[0]);
    const uint32_t bits = Op::kMaskFirst ? keep(i) : 0;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      C in[Op::kInputs], out[kKept];
#pragma unroll
      for (int k = 0; k < Op::kInputs; ++k) in[k] = x[k][e];
      op.begin(decision(bits, e), in, out);
#pragma unroll
      for (int k = 0; k < kKept; ++k) kept[k][e] = Op::kStoresFirst ? rounded<T>(out[k]) : out[k];
    }
    if constexpr (Op::kStoresFirst) store(a.first, i, kept[0]);
  }

  // What is kept of an octet before round kRound; behind the last one, before the results.
  template <int kRound>
  __device__ __forceinline__ void recall(int64_t i, C (&kept)[kKept][kGroup]) const {
    if (!kHolds || kRound == 0) make(i, kept);
    if (kRound != 1 && (kRound == 0 || kHolds)) return;
#pragma unroll
    for (int e = 0; e < kGroup; ++e) {
      C one[kKept];
      gather(kept, e, one);
      op.template step<1>(one);
#pragma unroll
      for (int k = 0; k < kKept; ++k) kept[k][e] = one[k];
    }
  }
  static __device__ __forceinline__ void gather(const C (&kept)[kKept][kGroup], int e, C (&one)[kKept]) {
#pragma unroll
    for (int k = 0; k < kKept; ++k) one[k] = kept[k][e];
  }

  template <int kRound>
  __device__ __forceinline__ void round() {
    constexpr bool kMaximum = Op::kMaximum && kRound == 0;
    C sum[kSums];
#pragma unroll
    for (int s = 0; s < kSums; ++s) sum[s] = kMaximum ? -static_cast<C>(HUGE_VAL) : C(0);
    each_octet([&](int j, int64_t i) {
      C(&kept)[kKept][kGroup] = held[kHolds ? j : 0];
      C weight[kGroup];
      recall<kRound>(i, kept);
      load(a.weight, i, C(1), weight, 0);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        C one[kKept], add[kSums];
        gather(kept, e, one);
        op.template term<kRound>(one, weight[e], add);
#pragma unroll
        for (int s = 0; s < kSums; ++s) {
          if (i + e < a.features) sum[s] = combined<kMaximum>(sum[s], add[s]);
        }
      }
    });
    reduce<kTeam, kMaximum>(sum);
    op.template finish<kRound>(sum);
  }

  __device__ __forceinline__ void results(int64_t part) {
    each_octet([&](int j, int64_t i) {
      C(&kept)[kKept][kGroup] = held[kHolds ? j : 0];
      C weight[kGroup], bias[kGroup], y[kGroup];
      recall<Op::kRounds>(i, kept);
      load(a.weight, i, C(1), weight, 0);
      load(a.bias, i, C(0), bias, 0);
      const uint32_t bits = Op::kMaskFirst || a.second == nullptr ? 0 : keep(i);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
        C one[kKept];
        gather(kept, e, one);
        y[e] = op.output(one, weight[e], bias[e]);
        if constexpr (Op::kColumns > 0) add_to_columns(kAddsInRegisters ? j : 0, part, i, e, one);
      }
      store(a.output, i, y);
#pragma unroll
      for (int e = 0; e < kGroup; ++e) y[e] = op.second(decision(bits, e), y[e]);
      store(a.second, i, y);
    });
  }

  __device__ __forceinline__ void add_to_columns(int j, int64_t part, int64_t i, int e, const C (&one)[kKept]) {
#pragma unroll
    for (int k = 0; k < Op::kColumns; ++k) {
      if (a.column[k] == nullptr || i + e >= a.features) continue;
      C& sum = kAddsInRegisters ? added[k][j][e] : static_cast<C*>(a.column[k])[part * a.features + i + e];
      sum = sum + op.column(k, one);
    }
  }

  __device__ __forceinline__ void write_columns(int64_t part) const {
    each_octet([&](int j, int64_t i) {
#pragma unroll
      for (int e = 0; e < kGroup; ++e) {
#pragma unroll
        for (int k = 0; k < Op::kColumns; ++k) {
          if (a.column[k] == nullptr || i + e >= a.features) continue;
          static_cast<C*>(a.column[k])[part * a.features + i + e] = added[k][kAddsInRegisters ? j : 0][e];
        }
      }
    });
  }

  __device__ __forceinline__ void row(int64_t r, int64_t part) {
    from = r * a.features;
    at = a.places.at(r, 0);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (Op::kBackward && a.statistic[k]) op.statistic[k] = static_cast<const C*>(a.statistic[k])[r];
    }
    round<0>();
    if constexpr (Op::kRounds > 1) round<1>();
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      if (!Op::kBackward && a.statistic[k] && thread == 0) static_cast<C*>(a.statistic[k])[r] = op.statistic[k];
    }
    results(part);
  }
};

template <class Op, class T, int kTeam, bool kFits>
__global__ void __launch_bounds__(kThreads) rows_kernel(const __grid_constant__ RowArgs a) {
  const int64_t part = static_cast<int64_t>(blockIdx.x) * (kThreads / kTeam) + threadIdx.x / kTeam;
  if (part >= a.parts()) return;
  RowTeam<Op, T, kTeam, kFits> team(a);
  constexpr bool kColumns = Op::kColumns > 0;
  if (kColumns && !kFits) team.write_columns(part);  // zeros, to be added to
  const int64_t end = (part + 1) * a.rows_in_part, last = end < a.rows ? end : a.rows;
  for (int64_t r = part * a.rows_in_part; r < last; ++r) team.row(r, part);
  if (kColumns && kFits) team.write_columns(part);
}

struct SumArgs {
  const void* parts;
  int64_t count, features;
  void* sum;
};

// A warp's lanes are columns, its warps are every eighth part; they meet in shared memory.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_of_parts_kernel(const __grid_constant__ SumArgs a) {
  using C = Compute<T>;
  constexpr int kWarps = kThreads / kWarp;
  __shared__ C of_warp[kWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  C sum = 0;
  if (column < a.features) {
#pragma unroll 4
    for (int64_t part = warp; part < a.count; part += kWarps) {
      sum = sum + static_cast<const C*>(a.parts)[part * a.features + column];
    }
  }
  of_warp[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= a.features) return;
  for (int w = 1; w < kWarps; ++w) sum = sum + of_warp[w][lane];
  const C one[1] = {sum};
  Packed<T, 1> packed;
  Convert<T>::template down<1>(one, packed);
  store(static_cast<T*>(a.sum) + column, packed);
}

struct LaunchRows {
  const RowArgs& args;
  cudaStream_t stream;

  template <class Op, class T>
  cudaError_t operator()() const {
    static_assert(sizeof(RowArgs) <= 4096, "what a kernel's arguments may take on every architecture");
    if (args.features <= kWarp * kGroup * kRowOctets) {
      return launch(rows_kernel<Op, T, kWarp, true>, args, args.parts() * kWarp, stream);
    }
    const bool fits = args.features <= kThreads * kGroup * kRowOctets;
    return launch(fits ? rows_kernel<Op, T, kThreads, true> : rows_kernel<Op, T, kThreads, false>, args,
                  args.parts() * kThreads, stream);
  }
};

}  // namespace

int64_t rows_in_part(int64_t rows) { return rows < kRowParts ? 1 : (rows + kRowParts - 1) / kRowParts; }

cudaError_t launch_rows(RowOperation operation, DType dtype, const RowArgs& args, cudaStream_t stream) {
  return visit_row_operation(operation, dtype, LaunchRows{args, stream});
}

cudaError_t launch_sum_of_parts(DType dtype, const void* parts, int64_t count, int64_t features, void* sum,
                                cudaStream_t stream) {
  const SumArgs args{parts, count, features, sum};
  const int64_t threads = (features + kWarp - 1) / kWarp * kThreads;
  switch (dtype) {
    case DType::kFloat16:
      return launch(sum_of_parts_kernel<Half>, args, threads, stream);
    case DType::kBFloat16:
      return launch(sum_of_parts_kernel<BFloat16>, args, threads, stream);
    case DType::kFloat64:
      return launch(sum_of_parts_kernel<double>, args, threads, stream);
    default:
      return launch(sum_of_parts_kernel<float>, args, threads, stream);
  }
}

}  // namespace fused_dropout

// What a team of threads, a warp or a block, does with a row.
//
// A thread takes octets of 8 neighbours, which a Philox block decides. What is kept of them stays in registers where a
// row is short enough for that (kFits); otherwise it is made again for each round, from memory that is then in a cache.
// So do the sums of columns, or lie in memory that nobody else touches.
#pragma once

#include "row.cuh"

namespace fused_dropout {

template <class Op, class T, int kTeam, bool kFits>
struct RowTeam {
  using C = Compute<T>;
  static constexpr int kKept = Op::kKept, kSums = Op::kSums;
  static constexpr bool kHolds = kFits && !Op::kRecomputes, kAddsInRegisters = kFits && Op::kColumns > 0;
  static constexpr int kHeld = kHolds ? kRowOctets<T> : 1, kAdded = kAddsInRegisters ? kRowOctets<T> : 1;

  const RowArgs& a;
  const Mask mask;
  Op op;
  const int thread = threadIdx.x % kTeam;
  int64_t from = 0;  // of the row: its first element
  Offsets at{};
  C held[kHeld][kKept][kGroup];
  C added[Op::kColumns + 1][kAdded][kGroup] = {};

  __device__ explicit RowTeam(const RowArgs& args)
      : a(args),
        mask(load_state(args.state, args.state_out), args.p.load()),
        op(RowConstants<C>(args, args.p.load())) {}

  // Calls body(j, i) for the thread's octets: number j begins at element i of the row.
  template <class Body>
  __device__ __forceinline__ void each_octet(const Body& body) const {
    if constexpr (kFits) {
#pragma unroll
      for (int j = 0; j < kRowOctets<T>; ++j) {
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

  __device__ __forceinline__ Octet<T> load(const void* p, int64_t i, C otherwise, int64_t begin) const {
    Octet<T> octet;
    octet.load(p ? static_cast<const T*>(p) + begin + i : nullptr, a.features - i, otherwise);
    return octet;
  }
  __device__ __forceinline__ void store(void* p, int64_t i, const C (&x)[kGroup]) const {
    if (p != nullptr) store_octet(static_cast<T*>(p) + from + i, a.features - i, x);
  }

  // `added` is attn_mask's octet, where that is one to be added.
  __device__ __forceinline__ void attend(int64_t i, const Octet<T>& added, C (&x)[kGroup]) const {
    C bias[kGroup];
    const bool biased = a.attend == Attend::kBiased, some = a.attend == Attend::kSome;
    added.convert(bias);
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
    Octet<T> octet[Op::kInputs], added;
    C x[Op::kInputs][kGroup];
#pragma unroll
    for (int k = 0; k < Op::kInputs; ++k) octet[k] = load(a.input[k], i, C(0), from);
    if constexpr (Op::kAttends)
      added = load(a.attend == Attend::kBiased ? a.attn_mask : nullptr, i, C(0), at.operand[1]);
    const uint32_t bits = Op::kMaskFirst ? keep(i) : 0;
#pragma unroll
    for (int k = 0; k < Op::kInputs; ++k) octet[k].convert(x[k]);
    if constexpr (Op::kAttends) attend(i, added, x[0]);
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
      const Octet<T> of_weight = load(a.weight, i, C(1), 0);
      recall<kRound>(i, kept);
      of_weight.convert(weight);
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
      const Octet<T> of_weight = load(a.weight, i, C(1), 0), of_bias = load(a.bias, i, C(0), 0);
      recall<Op::kRounds>(i, kept);
      of_weight.convert(weight);
      of_bias.convert(bias);
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

}  // namespace fused_dropout

// Sixty-four elements at a time: what the loops of every elementwise operation come down to.
//
// `batch` takes 64 elements and the decisions about them through the pipeline. A shorter batch, and one whose operands
// are strided, is the same function on a copy of the elements.
#pragma once

#include <utility>

#include "decisions.h"
#include "pair.h"

namespace fused_dropout {

template <class Isa, class Pipeline, class T>
class Batches {
 protected:
  using C = Compute<T>;
  using V = Vec<Isa, C>;
  using Decisions = typename DecisionsOf<Isa, C, Pipeline::kNoise>::type;
  using Batch = typename Decisions::Batch;
  static constexpr int kInputs = Pipeline::kInputs, kOutputs = Pipeline::kOutputs;
  using Inputs = std::make_index_sequence<kInputs>;

  explicit Batches(const ElementwiseArgs& args)
      : args_(args),
        layout_(args.layout),
        pipeline_(args.p.load(), args.gain),
        unit_(unit(layout_)),
        constants_(unit_ && !layout_.unit_inner_strides()),
        decisions_(args) {}

  struct Pointers {
    T* y[kOutputs];
    const T* x[kInputs + 1];
  };

  Pointers pointers(const Offsets& at) const {
    Pointers p{};
    for (int k = 0; k < kOutputs; ++k) p.y[k] = static_cast<T*>(args_.outputs[k]) + at.operand[k];
    for (int k = 0; k < kInputs; ++k) p.x[k] = static_cast<const T*>(args_.inputs[k]) + at.operand[kOutputs + k];
    return p;
  }

  // Operands are contiguous along dimension 0 or, of inputs, constant: an expanded gradient, a number for each channel.
  static bool unit(const Layout& l) {
    bool all = true;
    for (int k = 0; k < l.operands; ++k) all = all && (l.stride[k][0] == 1 || (k >= kOutputs && l.stride[k][0] == 0));
    return all;
  }

  template <int64_t kElements>
  using Copies = T[kInputs > 0 ? kInputs : 1][kElements];

  // The constant ones as rows of `n` elements, which `at` then points to; only whole batches read more than the first.
  template <int64_t kElements>
  void spread(Pointers& at, Copies<kElements>& copies, int64_t n) const {
    for (int k = 0; k < kInputs; ++k) {
      if (layout_.stride[kOutputs + k][0] != 0) continue;
      const T value = *at.x[k];
      for (int64_t i = 0; i < n; ++i) copies[k][i] = value;
      at.x[k] = copies[k];
    }
  }

  // The pair of registers that begins at `lane` of the batch, which begins at element `i`.
  template <bool kReadFirst, size_t... K>
  static FD_HOST_DEVICE void registers(const Pipeline& pipeline, const Batch& decisions, int lane, const Pointers& at,
                                       int64_t i, std::index_sequence<K...>) {
    const auto decision = Decisions::template lanes<V, T>(decisions, lane);
    const auto results = [&] {
      if constexpr (sizeof...(K) == 0) {
        return pipeline(decision, Pair<V>(C(0)));
      } else {
        return pipeline(decision, (K > 0 || kReadFirst ? load(at.x[K] + i + lane) : Pair<V>(C(0)))...);
      }
    }();
    if constexpr (kOutputs == 2) {
      V::store(results.first.first, results.first.second, at.y[0] + i + lane);
      V::store(results.second.first, results.second.second, at.y[1] + i + lane);
    } else {
      V::store(results.first, results.second, at.y[0] + i + lane);
    }
  }
  static FD_HOST_DEVICE Pair<V> load(const T* p) { return {V::load(p, 0), V::load(p, 1)}; }

  // 64 elements from `i` on, all operands contiguous.
  template <bool kReadFirst = true>
  static FD_HOST_DEVICE void batch(const Pipeline& pipeline, const Batch& decisions, const Pointers& at, int64_t i) {
    if constexpr (std::is_same_v<T, uint8_t>) {
      Isa::store_truths(decisions, at.y[0] + i);  // the decisions themselves
    } else if constexpr (Pipeline::kLong || !Isa::kUnrolled) {
      long_batch<kReadFirst>(pipeline, decisions, at, i);
    } else {
#pragma GCC unroll 16
      for (int lane = 0; lane < kBatch; lane += 2 * V::kLanes) {
        registers<kReadFirst>(pipeline, decisions, lane, at, i, Inputs{});
      }
    }
  }

  // The same, once in the code: a call is nothing beside so many instructions.
  template <bool kReadFirst>
  static __attribute__((noinline)) void long_batch(const Pipeline& pipeline, const Batch& decisions, const Pointers& at,
                                                   int64_t i) {
#pragma GCC unroll 1
    for (int lane = 0; lane < kBatch; lane += 2 * V::kLanes) {
      registers<kReadFirst>(pipeline, decisions, lane, at, i, Inputs{});
    }
  }

  // Up to 64 elements of any stride: gathered, computed by the same function, scattered.
  __attribute__((noinline)) void partial_batch(const Batch& decisions, const Pointers& at, int64_t count) const {
    alignas(64) T copy[kOutputs + kInputs][kBatch] = {};
    Pointers copies{};
    for (int k = 0; k < kOutputs; ++k) copies.y[k] = copy[k];
    for (int k = 0; k < kInputs; ++k) {
      T* const to = copy[kOutputs + k];
      const int64_t stride = layout_.stride[kOutputs + k][0];
      for (int64_t i = 0; i < count; ++i) to[i] = at.x[k][i * stride];
      copies.x[k] = to;
    }
    batch(pipeline_, decisions, copies, 0);
    for (int k = 0; k < kOutputs; ++k) {
      for (int64_t i = 0; i < count; ++i) at.y[k][i * layout_.stride[k][0]] = copy[k][i];
    }
  }

  // Takes `count` elements of the run and moves on behind them. Out of line: loops that have no time for a call take
  // whole batches of contiguous operands by `batch`.
  __attribute__((noinline)) void take(const Batch& decisions, Pointers& at, int64_t count) const {
    if (unit_ && count == kBatch) {
      batch(pipeline_, decisions, at, 0);
    } else {
      partial_batch(decisions, at, count);
    }
    advance(at, count);
  }

  FD_HOST_DEVICE void advance(Pointers& at, int64_t count) const {
    for (int k = 0; k < kOutputs; ++k) at.y[k] += count * layout_.stride[k][0];
    for (int k = 0; k < kInputs; ++k) at.x[k] += count * layout_.stride[kOutputs + k][0];
  }

  const ElementwiseArgs& args_;
  const Layout& layout_;
  const Pipeline pipeline_;
  const bool unit_, constants_;
  Decisions decisions_;
};

}  // namespace fused_dropout

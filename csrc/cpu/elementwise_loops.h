// The CPU loops of every elementwise operation: runs here, tiles (tiles.h) where the mask runs across the memory order.
//
// The work of a call is a number of items, so that threads can share it: a stretch of a run (kStretch elements), or a
// tile. Both come down to batches of 64 elements (batches.h) and the decisions about them (decisions.h).
#pragma once

#include <algorithm>
#include <utility>

#include "rows.h"

namespace fused_dropout {

template <class Isa, class Pipeline, class T>
class ElementwiseLoops : Rows<Isa, Pipeline, T> {
  using Base = Rows<Isa, Pipeline, T>;
  using Base::advance;
  using Base::batch;
  using Base::constants_;
  using Base::coordinate_;
  using Base::decisions_;
  using Base::layout_;
  using Base::move;
  using Base::pipeline_;
  using Base::pointers;
  using Base::take;
  using Base::unit_;
  using typename Base::Batch;
  using typename Base::Decisions;
  using typename Base::Pointers;
  using Maker = typename Decisions::Maker;
  // A long pipeline is bound by itself, and its batch is a call.
  static constexpr int kLinearWords = Pipeline::kLong ? Isa::kWords : Maker::kLinearWords;

 public:
  explicit ElementwiseLoops(const ElementwiseArgs& args) : Base(args) {
    linear_ = layout_.mask_stride[0] == 1;
    for (int d = 1; d <= layout_.flat && d < layout_.ndim; ++d) {
      if (layout_.mask_stride[d] == 0 && Decisions::kRemembered > 0) linear_ = false;
    }
  }

  void run(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) is_tiled(layout_) ? Base::tile(i) : stretch(i);
  }

 private:
  void stretch(int64_t item) {
    const int64_t sharers = repeats(layout_), stretches = pieces(layout_.run(), kStretch);
    const int64_t sharer = item % sharers, from = item / sharers % stretches * kStretch;
    Offsets at = layout_.at(item / sharers / stretches * sharers + sharer, layout_.flat);
    const MaskPlace mask = layout_.mask_at(at.mask_index, from);
    for (int k = 0; k < Pipeline::kOutputs + Pipeline::kInputs; ++k) at.operand[k] += from * layout_.stride[k][0];

    int64_t rest = from;
    for (int d = 0; d < layout_.flat; ++d) coordinate_[d] = Layout::take(rest, layout_.size[d]);
    const int64_t n = std::min(kStretch, layout_.run() - from);
    constants_&& n >= kBatch ? rows_with_constants(pointers(at), mask, n) : rows(pointers(at), mask, n);
  }

  __attribute__((noinline)) void rows_with_constants(Pointers at, const MaskPlace& mask, int64_t n) {
    alignas(64) typename Base::template Copies<kStretch> constants;
    Base::spread(at, constants, n);
    rows(at, mask, n);
  }

  // Goes through the rows of a run: whole batches within a row, and batches that are put together from several.
  __attribute__((noinline)) void rows(Pointers at, MaskPlace mask, int64_t n) {
    while (n > 0) {
      const int64_t left = std::min(n, mask.left);
      int64_t done;
      if (const int64_t equal = Base::rows_of_one_mask(mask, n); equal > 0) {
        done = Base::equal_rows(at, mask, equal);
      } else if (Base::short_rows_ && Base::whole_batches(mask, n) > 0) {
        done = Base::short_rows(at, mask, Base::whole_batches(mask, n));
      } else if (left >= kBatch) {
        done = row(at, mask.index, left);
        move(mask, done);
      } else {
        Batch decided{};
        const int64_t most = Base::equal_rows_ && mask.left < layout_.size[0] ? left : std::min<int64_t>(kBatch, n);
        for (done = 0; done < most;) {
          const int count = static_cast<int>(std::min(most - done, mask.left));
          decisions_.put(decided, static_cast<int>(done), mask.index, layout_.mask_stride[0], count);
          move(mask, count);
          done += count;
        }
        take(decided, at, done);
      }
      n -= done;
    }
  }

  // The first `n` elements of what is left of a row, at least 64, or a part of them; returns how many it took.
  FD_HOST_DEVICE int64_t row(Pointers& at, uint64_t mask_index, int64_t n) {
    const uint64_t mask_stride = layout_.mask_stride[0];
    int64_t done = 0;
    if (!unit_) {
      for (; done + kBatch <= n; done += kBatch) {
        take(decisions_.whole(mask_index + static_cast<uint64_t>(done) * mask_stride, mask_stride), at, kBatch);
      }
      return done;
    }
    if (mask_stride == 0) {
      const Batch decided = decisions_.whole(mask_index, 0);
      const Pipeline pipeline = pipeline_;
      const Pointers from = at;
      done = n / kBatch * kBatch;
      if (!Pipeline::kReadsDropped && n >= Base::kUnread && Decisions::drops_all(decided)) {
        Base::template equal_batches<false>(pipeline, decided, from, 0, done);
      } else {
        Base::template equal_batches<true>(pipeline, decided, from, 0, done);
      }
    } else if (linear_ && n >= kLinearWords * kBatch && same_high_half(mask_index / kGroup, n)) {
      const int64_t skip = static_cast<int64_t>(-mask_index % kGroup);
      if (skip != 0) {
        Batch decided{};
        decisions_.put(decided, 0, mask_index, 1, static_cast<int>(skip));
        take(decided, at, skip);
        return skip;
      }
      done = linear_batches(at, mask_index, n);
    } else {
      for (; done + kBatch <= n; done += kBatch) {
        batch(pipeline_, decisions_.whole(mask_index + static_cast<uint64_t>(done) * mask_stride, mask_stride), at,
              done);
      }
    }
    advance(at, done);
    return done;
  }

  // The loop where the time goes: contiguous operands and mask, the mask aligned to its groups.
  int64_t linear_batches(const Pointers& at, uint64_t mask_index, int64_t n) const {
    const Maker maker = decisions_.maker;  // copies, which stores to y cannot change, so that they stay in registers
    const Pipeline pipeline = pipeline_;
    const Pointers from = at;
    const uint64_t group = mask_index / kGroup, high = group >> 32;
    int64_t i = 0;
    for (; i + kLinearWords * kBatch <= n; i += kLinearWords * kBatch) {
      Batch made[kLinearWords];
      maker.make(group + static_cast<uint64_t>(i) / kGroup, high, made);
#pragma GCC unroll 4
      for (int w = 0; w < kLinearWords; ++w) batch(pipeline, made[w], from, i + w * kBatch);
    }
    return i;
  }

  bool linear_;  // rows of neighbouring mask indices, none of which is met again
};

template <class Isa>
struct RunElementwise {
  const ElementwiseArgs& args;
  int64_t begin, end;
  template <class Pipeline, class T>
  void operator()() const {
    ElementwiseLoops<Isa, Pipeline, T>(args).run(begin, end);
  }
};

template <class Isa>
void run_elementwise(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t begin, int64_t end) {
  visit_elementwise(pipeline, dtype, RunElementwise<Isa>{args, begin, end});
}

}  // namespace fused_dropout

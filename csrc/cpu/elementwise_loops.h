// The CPU loops of every elementwise operation: rows, and tiles where the mask runs across the memory order.
//
// The work of a call is a number of items, so that threads can share it: a stretch of a row (kStretch elements), or a
// tile. Both come down to `batch`: 64 elements and their 64 keep bits, through the pipeline. A shorter batch, and one
// whose operands are strided, is the same function on a copy of the elements.
#pragma once

#include <algorithm>
#include <utility>

#include "../core/elementwise.h"
#include "elementwise.h"
#include "simd.h"

namespace fused_dropout {

static_assert(kTileAlong == kBatch, "a tile is as high as a word of keep bits is wide");

template <class Isa, class Pipeline, class T>
class ElementwiseLoops {
  using C = Compute<T>;
  using V = Vec<Isa, C>;
  static constexpr int kInputs = Pipeline::kInputs;

 public:
  explicit ElementwiseLoops(const ElementwiseArgs& args)
      : args_(args),
        layout_(args.layout),
        pipeline_(args.p.load(), args.gain),
        unit_(layout_.unit_inner_strides()),
        keep_(Mask(args.state.load(), args.p.load())) {}

  void run(int64_t begin, int64_t end) {
    if (is_tiled(layout_)) {
      for (int64_t i = begin; i < end; ++i) tile(i);
    } else {
      rows(begin, end);
    }
  }

 private:
  struct Pointers {
    T* y;
    const T* x[kMaxInputs];
  };

  Pointers pointers(const Offsets& at) const {
    Pointers p{static_cast<T*>(args_.output) + at.operand[0], {}};
    for (int k = 0; k < kInputs; ++k) p.x[k] = static_cast<const T*>(args_.inputs[k]) + at.operand[k + 1];
    return p;
  }

  // One register: the elements from `i` on, and their keep bits.
  template <size_t... K>
  static FD_HOST_DEVICE V lanes(const Pipeline& pipeline, uint64_t bits, const Pointers& at, int64_t i,
                                std::index_sequence<K...>) {
    if constexpr (sizeof...(K) == 0) {
      return pipeline(V::keep(bits), V(C(0)));
    } else {
      return pipeline(V::keep(bits), V::load(at.x[K] + i)...);
    }
  }

  // 64 elements from `i` on, all operands contiguous.
  static FD_HOST_DEVICE void batch(const Pipeline& pipeline, uint64_t bits, const Pointers& at, int64_t i) {
    constexpr std::make_index_sequence<kInputs> inputs;
#pragma GCC unroll 16
    for (int lane = 0; lane < kBatch; lane += 2 * V::kLanes) {
      const V first = lanes(pipeline, bits >> lane, at, i + lane, inputs);
      const V second = lanes(pipeline, bits >> (lane + V::kLanes), at, i + lane + V::kLanes, inputs);
      V::store(first, second, at.y + i + lane);
    }
  }

  // Up to 64 elements of any stride: gathered, computed by the same function, scattered.
  __attribute__((noinline)) void partial_batch(uint64_t bits, const Pointers& at, int64_t count) const {
    alignas(64) T copy[kInputs + 1][kBatch] = {};
    Pointers copies{copy[0], {}};
    for (int k = 0; k < kInputs; ++k) {
      const int64_t stride = layout_.stride[k + 1][0];
      for (int64_t i = 0; i < count; ++i) copy[k + 1][i] = at.x[k][i * stride];
      copies.x[k] = copy[k + 1];
    }
    batch(pipeline_, bits, copies, 0);
    for (int64_t i = 0; i < count; ++i) at.y[i * layout_.stride[0][0]] = copy[0][i];
  }

  // Takes `count` elements of dimension 0 and moves on behind them.
  FD_HOST_DEVICE void take(uint64_t bits, Pointers& at, int64_t count) const {
    if (unit_ && count == kBatch) {
      batch(pipeline_, bits, at, 0);
    } else {
      partial_batch(bits, at, count);
    }
    advance(at, count);
  }

  FD_HOST_DEVICE void advance(Pointers& at, int64_t count) const {
    at.y += count * layout_.stride[0][0];
    for (int k = 0; k < kInputs; ++k) at.x[k] += count * layout_.stride[k + 1][0];
  }

  void rows(int64_t begin, int64_t end) {
    const int64_t stretches = stretches_in_row(layout_);
    for (int64_t i = begin; i < end; ++i) {
      Offsets at = layout_.at(i / stretches);
      const int64_t from = i % stretches * kStretch;
      layout_.step(at, 0, from);
      row(pointers(at), at.mask_index, std::min(kStretch, layout_.size[0] - from));
    }
  }

  // The loop where the time goes: contiguous operands and mask, the mask aligned to its groups.
  int64_t linear_batches(const Pointers& at, uint64_t mask_index, int64_t n) const {
    const KeepBits<Isa> keep = keep_;  // copies, which stores to y cannot change, so that they stay in registers
    const Pipeline pipeline = pipeline_;
    constexpr int kMade = KeepBits<Isa>::kMade;
    const uint64_t group = mask_index / kGroup, high = group >> 32;
    int64_t i = 0;
    for (; i + kMade <= n; i += kMade) {
      uint64_t bits[Isa::kWords];
      keep.make(group + static_cast<uint64_t>(i) / kGroup, high, bits);
#pragma GCC unroll 4
      for (int w = 0; w < Isa::kWords; ++w) batch(pipeline, bits[w], at, i + w * kBatch);
    }
    return i;
  }

  void row(Pointers at, uint64_t mask_index, int64_t n) {
    const uint64_t mask_stride = layout_.mask_stride[0];
    while (n > 0) {
      if (unit_ && mask_stride == 1 && mask_index % kGroup == 0 && n >= KeepBits<Isa>::kMade &&
          KeepBits<Isa>::same_high_half(mask_index / kGroup, n)) {
        const int64_t done = linear_batches(at, mask_index, n);
        advance(at, done);
        mask_index += static_cast<uint64_t>(done);
        n -= done;
        continue;
      }
      int64_t count = kBatch;
      uint64_t bits = 0;
      if (mask_stride == 1) {
        bits = keep_.from(mask_index, count);
      } else if (mask_stride == 0) {
        bits = keep_.one(mask_index) ? ~uint64_t{0} : 0;
      } else {
        for (int i = 0; i < std::min<int64_t>(kBatch, n); ++i) {
          bits |= static_cast<uint64_t>(keep_.one(mask_index + static_cast<uint64_t>(i) * mask_stride)) << i;
        }
      }
      count = std::min(count, n);
      take(bits, at, count);
      mask_index += static_cast<uint64_t>(count) * mask_stride;
      n -= count;
    }
  }

  // Dimension 1 is where mask indices are neighbours, dimension 0 where memory is: the keep bits of 64 by 64 elements
  // are made along the one and transposed to be used along the other.
  void tile(int64_t item) {
    const int64_t across = (layout_.size[0] + kTileAcross - 1) / kTileAcross;
    const int64_t along = (layout_.size[1] + kTileAlong - 1) / kTileAlong;
    const int64_t p0 = item % across * kTileAcross, q0 = item / across % along * kTileAlong;
    Offsets at = layout_.at(item / across / along, 2);
    layout_.step(at, 0, p0);
    layout_.step(at, 1, q0);
    const int64_t np = std::min(kTileAcross, layout_.size[0] - p0), nq = std::min(kTileAlong, layout_.size[1] - q0);

    uint64_t bits[kTileAcross / kBatch][kBatch];
    for (int64_t p = 0; p < np; p += kBatch) {
      uint64_t* rows = bits[p / kBatch];
      for (int64_t i = 0; i < kBatch; ++i) {
        rows[i] =
            p + i < np ? keep_.all_from(at.mask_index + static_cast<uint64_t>(p + i) * layout_.mask_stride[0]) : 0;
      }
      transpose(rows);
    }
    for (int64_t q = 0; q < nq; ++q, layout_.step(at, 1, 1)) {
      Pointers run = pointers(at);
      for (int64_t p = 0; p < np; p += kBatch) take(bits[p / kBatch][q], run, std::min<int64_t>(kBatch, np - p));
    }
  }

  // A 64 by 64 bit matrix (Warren, "Hacker's Delight", section 7-3): bit j of word i becomes bit i of word j.
  static void transpose(uint64_t* m) {
    uint64_t mask = 0x00000000ffffffffu;
    for (int size = 32; size != 0; size >>= 1, mask ^= mask << size) {
      for (int i = 0; i < kBatch; i = (i + size + 1) & ~size) {
        const uint64_t swapped = ((m[i] >> size) ^ m[i + size]) & mask;
        m[i] ^= swapped << size;
        m[i + size] ^= swapped;
      }
    }
  }

  const ElementwiseArgs& args_;
  const Layout& layout_;
  Pipeline pipeline_;
  bool unit_;
  KeepBits<Isa> keep_;
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

}  // namespace fused_dropout

// Tiles: how the CPU works where mask indices are neighbours along one dimension and elements along another, as in
// channels_last and transposed tensors.
#pragma once

#include <algorithm>

#include "batches.h"

namespace fused_dropout {

template <class Isa, class Pipeline, class T>
class Tiles : protected Batches<Isa, Pipeline, T> {
 protected:
  using Base = Batches<Isa, Pipeline, T>;
  using Base::advance;
  using Base::batch;
  using Base::constants_;
  using Base::decisions_;
  using Base::layout_;
  using Base::pipeline_;
  using Base::pointers;
  using Base::take;
  using Base::unit_;
  using typename Base::Batch;
  using typename Base::Decisions;
  using typename Base::Pointers;

  explicit Tiles(const ElementwiseArgs& args) : Base(args) {}

  // Dimension 1 is where mask indices are neighbours, dimension 0 where memory is.
  void tile(int64_t item) {
    const int64_t across = pieces(layout_.size[0], kTileAcross), along = pieces(layout_.size[1], kTileAlong);
    const int64_t p0 = item % across * kTileAcross, q0 = item / across % along * kTileAlong;
    Offsets at = layout_.at(item / across / along, 2);
    layout_.step(at, 0, p0);
    layout_.step(at, 1, q0);
    const int64_t np = std::min(kTileAcross, layout_.size[0] - p0), nq = std::min(kTileAlong, layout_.size[1] - q0);
    for (int64_t p = 0; p < np; p += Decisions::kAcross, layout_.step(at, 0, Decisions::kAcross)) {
      part_of_tile(at, std::min<int64_t>(Decisions::kAcross, np - p), nq);
    }
  }

 private:
  // Decisions are made along the one dimension and transposed, 64 by 64, to be used along the other.
  void part_of_tile(Offsets at, int64_t np, int64_t nq) {
    Batch made[Decisions::kAcross / kBatch][kSquares][kBatch];
    for (int64_t p = 0; p < np; p += kBatch) {
      Batch(&squares)[kSquares][kBatch] = made[p / kBatch];
      for (int64_t i = 0; i < kBatch; ++i) {
        const uint64_t index = at.mask_index + static_cast<uint64_t>(p + i) * layout_.mask_stride[0];
        if (p + i < np) {
          decisions_.put_along(squares, i, index, nq);
        } else {
          for (Batch(&square)[kBatch] : squares) square[i] = {};
        }
      }
      for (int64_t q = 0; q < nq; q += kBatch) Decisions::transpose(squares[q / kBatch]);
    }
    if (np < kBatch && np == layout_.size[0] && layout_.flat > 1) return narrow(made[0], pointers(at), nq);
    const Pipeline pipeline = pipeline_;  // a copy, as in linear_batches
    alignas(64) typename Base::template Copies<Decisions::kAcross> constants;
    for (int64_t q = 0; q < nq; ++q, layout_.step(at, 1, 1)) {
      Pointers run = pointers(at);
      if (constants_ && np >= kBatch) Base::spread(run, constants, np);
      int64_t p = 0;
      for (; unit_ && p + kBatch <= np; p += kBatch) {
        batch(pipeline, made[p / kBatch][q / kBatch][q % kBatch], run, p);
      }
      advance(run, p);
      for (; p < np; p += kBatch) {
        take(made[p / kBatch][q / kBatch][q % kBatch], run, std::min<int64_t>(kBatch, np - p));
      }
    }
  }

  // Dimension 0 is shorter than a batch, and dimension 1 continues it: batches are put together across.
  void narrow(const Batch (&squares)[kSquares][kBatch], Pointers at, int64_t nq) {
    alignas(64) typename Base::template Copies<kBatch> constants;
    if (constants_) Base::spread(at, constants, kBatch);
    const int np = static_cast<int>(layout_.size[0]);
    Batch decided{};
    int filled = 0;
    for (int64_t q = 0; q < nq; ++q) {
      const Batch& from = squares[q / kBatch][q % kBatch];
      const int first = std::min(np, kBatch - filled);
      Decisions::copy(from, 0, decided, filled, first);
      filled += first;
      if (filled < kBatch) continue;
      take(decided, at, kBatch);
      decided = {};
      filled = np - first;
      if (filled > 0) Decisions::copy(from, first, decided, 0, filled);
    }
    if (filled > 0) take(decided, at, filled);
  }
};

}  // namespace fused_dropout

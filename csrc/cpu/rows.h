// The rows of a run: where a mask has rows of its own (whole channels, one mask over time, the parts of complex
// numbers), a walk from each to the next, and the kinds of rows of which many are taken at once.
#pragma once

#include <algorithm>

#include "tiles.h"

namespace fused_dropout {

template <class Isa, class Pipeline, class T>
class Rows : protected Tiles<Isa, Pipeline, T> {
  using Base = Tiles<Isa, Pipeline, T>;

 protected:
  using Base::advance;
  using Base::batch;
  using Base::decisions_;
  using Base::layout_;
  using Base::pipeline_;
  using Base::unit_;
  using typename Base::Batch;
  using typename Base::Pointers;

  explicit Rows(const ElementwiseArgs& args) : Base(args) {
    if (layout_.flat > 1) {
      next_row_ = layout_.mask_stride[1] - static_cast<uint64_t>(layout_.size[0]) * layout_.mask_stride[0];
    }
    equal_rows_ = unit_ && layout_.flat > 1 && layout_.mask_stride[0] == 1 && layout_.mask_stride[1] == 0 &&
                  layout_.size[0] % kBatch == 0 && layout_.size[0] <= kEqualRow;
    while (doublings_ < 5 && layout_.size[0] > int64_t{1} << doublings_) ++doublings_;
    short_rows_ = unit_ && layout_.flat > 1 && layout_.mask_stride[0] == 0 && layout_.mask_stride[1] == 1 &&
                  layout_.size[0] == int64_t{1} << doublings_;
  }

  // Whole rows of one mask, made once. Leaves `mask` behind the last of them.
  int64_t equal_rows(Pointers& at, MaskPlace& mask, int64_t n) {
    const Pipeline pipeline = pipeline_;
    const int64_t batches = layout_.size[0] / kBatch;
    const int64_t rows = std::min(n / layout_.size[0], layout_.size[1] - coordinate_[1]);
    Batch decided[kEqualRow / kBatch];
    for (int64_t b = 0; b < batches; ++b) {
      decided[b] = decisions_.whole(mask.index + static_cast<uint64_t>(b * kBatch), 1);
    }
    int64_t i = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t b = 0; b < batches; ++b, i += kBatch) batch(pipeline, decided[b], at, i);
    }
    advance(at, i);
    coordinate_[1] += rows - 1;
    move(mask, layout_.size[0]);
    return i;
  }

  // Of short rows, before the end of the run or of dimension 1.
  int64_t whole_batches(int64_t n) const {
    return std::min(n, (layout_.size[1] - coordinate_[1]) << doublings_) / kBatch;
  }

  // Rows of 2, 4, ... 32 elements, each with one decision, the next one the next row's: the parts of complex numbers,
  // small channels. Leaves `mask` behind the last of them.
  int64_t short_rows(Pointers& at, MaskPlace& mask, int64_t batches) {
    const Pipeline pipeline = pipeline_;
    const int64_t rows = kBatch >> doublings_;
    for (int64_t b = 0; b < batches; ++b) {
      const Batch decided = decisions_.repeated(mask.index + static_cast<uint64_t>(b * rows), doublings_);
      batch(pipeline, decided, at, b * kBatch);
    }
    advance(at, batches * kBatch);
    coordinate_[1] += batches * rows - 1;
    mask.index += static_cast<uint64_t>(batches * rows - 1);
    move(mask, layout_.size[0]);
    return batches * kBatch;
  }

  // Moves on by `count` elements, at most to the row's end and so to the next row's beginning.
  FD_HOST_DEVICE void move(MaskPlace& mask, int64_t count) {
    mask.index += static_cast<uint64_t>(count) * layout_.mask_stride[0];
    mask.left -= count;
    if (mask.left > 0) return;
    mask.left = layout_.size[0];
    mask.index += next_row_;
    if (layout_.flat > 1 && __builtin_expect(++coordinate_[1] == layout_.size[1], 0)) carry(mask.index);
  }

  // From the row behind the last one of dimension 1 to the first one of the next.
  __attribute__((noinline)) void carry(uint64_t& index) {
    for (int d = 1; d < layout_.flat && coordinate_[d] == layout_.size[d]; ++d) {
      coordinate_[d] = 0;
      index -= static_cast<uint64_t>(layout_.size[d]) * layout_.mask_stride[d];
      if (d + 1 == layout_.flat) break;
      ++coordinate_[d + 1];
      index += layout_.mask_stride[d + 1];
    }
  }

  static constexpr int64_t kEqualRow = 4096;  // elements of a row whose decisions fit into a few cache lines

  bool equal_rows_;               // rows are of whole batches, and neighbours along dimension 1 share their mask
  bool short_rows_;               // rows of a power of two, less than a batch, each with one decision of its own
  int doublings_ = 0;             // their size, as that power
  uint64_t next_row_ = 0;         // of mask indices, from behind a row to the beginning of the next
  int64_t coordinate_[kMaxDims];  // of the row, within the run
};

}  // namespace fused_dropout

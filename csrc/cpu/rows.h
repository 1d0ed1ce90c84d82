// The rows of a run: where a mask has rows of its own (whole channels, one mask over time, the parts of complex
// numbers), a walk from each to the next, and the kinds of rows of which many are taken at once.
#pragma once

#include <algorithm>
#include <numeric>

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
  using typename Base::Decisions;
  using typename Base::Pointers;

  explicit Rows(const ElementwiseArgs& args) : Base(args) {
    if (layout_.flat > 1) {
      next_row_ = layout_.mask_stride[1] - static_cast<uint64_t>(layout_.size[0]) * layout_.mask_stride[0];
    }
    together_ = kBatch / std::gcd(layout_.size[0], int64_t{kBatch});
    equal_rows_ = unit_ && layout_.flat > 1 && layout_.mask_stride[0] == 1 && layout_.mask_stride[1] == 0 &&
                  layout_.size[0] * together_ <= (together_ == 1 ? kStretch : kStretch / 2);
    while (doublings_ < 2 && layout_.size[0] > int64_t{1} << doublings_) ++doublings_;
    short_rows_ = unit_ && layout_.flat > 1 && layout_.mask_stride[0] == 0 && layout_.mask_stride[1] == 1 &&
                  layout_.size[0] < kUnread;
    doubled_ = layout_.size[0] == int64_t{1} << doublings_;
  }

  // Rows of one mask, as many as there are whole batches of them before the end of the run and of dimension 1.
  int64_t rows_of_one_mask(const MaskPlace& mask, int64_t n) const {
    if (!equal_rows_ || mask.left != layout_.size[0]) return 0;
    return std::min(n / layout_.size[0], layout_.size[1] - coordinate_[1]) / together_ * together_;
  }

  // Their decisions are made once. Leaves `mask` behind the last of them.
  int64_t equal_rows(Pointers& at, MaskPlace& mask, int64_t rows) {
    const Pipeline pipeline = pipeline_;
    const Pointers from = at;
    const int64_t size = layout_.size[0], period = size * together_, n = rows * size;
    Batch decided[kStretch / kBatch];
    for (int64_t i = 0; i < period; i += kBatch) {
      Batch& made = decided[i / kBatch];
      int64_t in_row = i % size;
      if (in_row + kBatch <= size) {
        made = decisions_.whole(mask.index + static_cast<uint64_t>(in_row), 1);
        continue;
      }
      made = {};
      for (int64_t filled = 0, count; filled < kBatch; filled += count, in_row = 0) {
        count = std::min(kBatch - filled, size - in_row);
        decisions_.put(made, static_cast<int>(filled), mask.index + static_cast<uint64_t>(in_row), 1,
                       static_cast<int>(count));
      }
    }
    for (int64_t i = 0; i < n;) {
      for (int64_t b = 0; b < period / kBatch; ++b, i += kBatch) batch(pipeline, decided[b], from, i);
    }
    advance(at, n);
    coordinate_[1] += rows - 1;
    move(mask, size);
    return n;
  }

  // Before the end of the run and of dimension 1.
  int64_t whole_batches(const MaskPlace& mask, int64_t n) const {
    return std::min(n, mask.left + (layout_.size[1] - coordinate_[1] - 1) * layout_.size[0]) / kBatch;
  }

  // Rows each with one decision, the next one the next row's: channels, the parts of complex numbers. Leaves `mask`
  // behind the last batch.
  int64_t short_rows(Pointers& at, MaskPlace& mask, int64_t batches) {
    const Pipeline pipeline = pipeline_;
    const Pointers from = at;
    MaskPlace place = mask;  // of our own, as the above: in registers, whatever is stored
    if (doubled_) {
      // A stretch and a batch are whole rows.
      const auto rows = static_cast<uint64_t>(kBatch >> doublings_);
      for (int64_t b = 0; b < batches; ++b, place.index += rows) {
        batch(pipeline, decisions_.repeated(place.index, doublings_), from, b * kBatch);
      }
      place = {place.index - 1, 0};
    } else {
      const int64_t size = layout_.size[0], n = batches * kBatch;
      for (int64_t i = 0; i < n;) {
        if (place.left == 0) place = {place.index + 1, size};
        if (place.left < kBatch) {
          batch(pipeline, decisions_.of_rows(place, size), from, i);
          i += kBatch;
        } else {
          const Batch same = decisions_.whole(place.index, 0);
          const int64_t in_row = std::min(place.left, n - i) / kBatch * kBatch, end = i + in_row;
          equal_batches<true>(pipeline, same, from, i, end);
          i = end;
          place.left -= in_row;
        }
      }
    }
    advance(at, batches * kBatch);
    coordinate_[1] += static_cast<int64_t>(place.index - mask.index);
    mask = place;
    if (mask.left == 0) move(mask, 0);
    return batches * kBatch;
  }

  // Batches of one decision, from element `i` to `end`.
  template <bool kReadFirst>
  static FD_HOST_DEVICE void equal_batches(const Pipeline& pipeline, const Batch& decided, const Pointers& at,
                                           int64_t i, int64_t end) {
    Decisions::with_equal(decided, [&](const Batch& same) FD_INLINE_LAMBDA {
      for (int64_t k = i; k < end; k += kBatch) Base::template batch<kReadFirst>(pipeline, same, at, k);
    });
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

  // Elements of a dropped row that are not read: less than four pages cost the prefetcher more than they spare.
  static constexpr int64_t kUnread = (int64_t{1} << 14) / static_cast<int64_t>(sizeof(T));

  bool equal_rows_;               // neighbours along dimension 1 share their mask,
  int64_t together_;              // and so many rows are whole batches, at least twice in a stretch
  bool short_rows_;               // rows each have one decision of their own, and none is long enough to go unread
  bool doubled_;                  // their size is 2 or 4,
  int doublings_ = 0;             // this power of two
  uint64_t next_row_ = 0;         // of mask indices, from behind a row to the beginning of the next
  int64_t coordinate_[kMaxDims];  // of the row, within the run
};

}  // namespace fused_dropout

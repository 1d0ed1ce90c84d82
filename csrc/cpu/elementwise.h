// What the CPU loops offer to the operations: how much work a call is, and a function for each instruction set.
#pragma once

#include <cstdint>

#include "../core/elementwise.h"

namespace fused_dropout {

constexpr int64_t kStretch = 4096;  // elements of a row that make a work item: 16 KiB of float32, half an L1 cache
constexpr int64_t kTileAcross =
    512;                            // elements of a tile along memory: runs of 1 KiB and more keep the prefetcher going
constexpr int64_t kTileAlong = 64;  // and across it: the width of a word of keep bits

// The mask runs along dimension 1 while memory runs along dimension 0: channels_last, and transposed tensors.
FD_HOST_DEVICE bool is_tiled(const Layout& l) { return l.ndim > 1 && l.mask_stride[0] > 1 && l.mask_stride[1] == 1; }

FD_HOST_DEVICE int64_t stretches_in_row(const Layout& l) { return (l.size[0] + kStretch - 1) / kStretch; }

// Brings the dimension along which mask indices are neighbours next to the innermost one, where that makes tiles.
FD_HOST_DEVICE void arrange_tiles(Layout& l) {
  for (int d = 2; d < l.ndim; ++d) {
    if (l.mask_stride[d] == 1 && l.mask_stride[0] > 1 && !is_tiled(l)) l.swap(1, d);
  }
}

struct Work {
  int64_t items, elements_per_item;
};

FD_HOST_DEVICE Work elementwise_work(const Layout& l) {
  if (!is_tiled(l)) return {l.rows() * stretches_in_row(l), l.size[0] < kStretch ? l.size[0] : kStretch};
  const int64_t across = (l.size[0] + kTileAcross - 1) / kTileAcross, along = (l.size[1] + kTileAlong - 1) / kTileAlong;
  return {l.rows() / l.size[1] * along * across, kTileAlong * (l.size[0] < kTileAcross ? l.size[0] : kTileAcross)};
}

// Runs the items [begin, end) of a call.
using ElementwiseFunction = void (*)(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);
void elementwise_portable(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);
void elementwise_avx2(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);
void elementwise_avx512(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);
void elementwise_avx512_bf16(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);

}  // namespace fused_dropout

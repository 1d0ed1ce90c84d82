// What the CPU loops offer to the operations: how much work a call is, and in which order.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../core/elementwise.h"

namespace fused_dropout {

// Elements of a run that make a work item: 16 KiB of float32, half an L1 cache. A constant input takes as much of the
// stack.
constexpr int64_t kStretch = 4096;
// Elements of a row whose keep bits are remembered, for those that share its mask: 16 KiB of bits. Beyond it, memory is
// left in jumps: each stretch is worked on for all that share it.
constexpr int64_t kRememberedRow = int64_t{1} << 17;
constexpr int64_t kTileAcross =
    512;  // elements of a tile along memory: runs of 1 KiB and more keep the prefetcher going
constexpr int64_t kTileAlong = 248;  // and across it: what 256 keep bits give, wherever in a group they begin
constexpr int kSquares = 4;          // of 64 by 64 decisions, which these 256 are a row of

// The mask runs along dimension 1 while memory runs along dimension 0: channels_last, and transposed tensors.
FD_HOST_DEVICE bool is_tiled(const Layout& l) { return l.ndim > 1 && l.mask_stride[0] > 1 && l.mask_stride[1] == 1; }

FD_HOST_DEVICE int64_t pieces(int64_t size, int64_t piece) { return (size + piece - 1) / piece; }

// How often a stretch of a run is worked on in succession: its mask is shared along the next dimension.
FD_HOST_DEVICE int64_t repeats(const Layout& l) {
  return l.flat < l.ndim && l.mask_stride[l.flat] == 0 ? l.size[l.flat] : 1;
}

// Orders the dimensions for the CPU. Where that makes tiles, the one along which mask indices are neighbours comes next
// to the innermost. Otherwise, a mask that is shared along a dimension should be made once: rows up to a stretch are
// remembered while a run goes on, longer ones by working on each stretch for all that share it.
inline void arrange(Layout& l) {
  for (int d = 2; d < l.ndim && !is_tiled(l) && l.mask_stride[0] > 1; ++d) {
    if (l.mask_stride[d] == 1) l.swap(1, d);
  }
  l.find_runs();
  if (is_tiled(l)) return;
  for (int d = 1; d < l.flat; ++d) {
    if (l.mask_stride[d] == 0 && l.elements(0, d) > kRememberedRow) l.flat = d;
  }
  for (int d = l.flat + 1; d < l.ndim && l.mask_stride[l.flat] != 0; ++d) {
    if (l.mask_stride[d] == 0) l.swap(l.flat, d);
  }
}

struct Work {
  int64_t items, elements_per_item;
};

FD_HOST_DEVICE Work elementwise_work(const Layout& l) {
  if (!is_tiled(l)) {
    const int64_t run = l.run();
    return {l.runs() * pieces(run, kStretch), run < kStretch ? run : kStretch};
  }
  const int64_t tiles = pieces(l.size[0], kTileAcross) * pieces(l.size[1], kTileAlong);
  return {l.elements(2, l.ndim) * tiles, std::min(kTileAcross, l.size[0]) * std::min(kTileAlong, l.size[1])};
}

}  // namespace fused_dropout

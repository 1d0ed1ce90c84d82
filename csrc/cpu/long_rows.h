// Inputs that begin again with each row, as a bias does: laid out as often as makes a long row. Else each row of the
// operands would be a run of its own, of which one of few elements costs more than they do.
#pragma once

#include <algorithm>
#include <cstring>

#include "elementwise.h"

namespace fused_dropout {

constexpr int64_t kLongRow = 2048;  // elements, at most: 8 KiB of float32, a quarter of an L1 cache

// Operand k has the same row wherever a run begins. It is an input: outputs do not overlap.
inline bool begins_again(const Layout& l, int k) {
  bool again = l.stride[k][0] == 1;
  for (int d = l.flat; d < l.ndim; ++d) again = again && l.stride[k][d] == 0;
  return again;
}

// How many runs make a long one: as many as fit, or a few less, so that few are not left over. A mask of strides that
// may make tiles is left alone.
inline int64_t runs_in_long_row(const Layout& l) {
  const int64_t row = l.run();
  if (l.flat == l.ndim || row == 0 || row > kLongRow / 2 || l.mask_stride[0] > 1) return 1;
  for (int k = 0; k < l.operands; ++k) {
    if (!l.continues(k, l.flat) && !begins_again(l, k)) return 1;
  }
  const int64_t runs = l.size[l.flat];
  return std::max<int64_t>(1, pieces(runs, pieces(std::max<int64_t>(1, runs), kLongRow / row)));
}

// Calls run(part) for the runs that are put together, `count` at a time, and for those that are left over. What is
// copied lies on the stack: a call that has drawn its state must not fail for want of memory.
template <class Run>
__attribute__((noinline)) void run_long_rows(int outputs, DType dtype, const ElementwiseArgs& args, int64_t count,
                                             const Run& run) {
  alignas(64) char copies[kMaxInputs][kLongRow * sizeof(double)];
  const Layout& l = args.layout;
  const int runs = l.flat;  // the dimension that counts them
  const int64_t left = l.size[runs] % count;
  const size_t row = static_cast<size_t>(l.run() * bytes_of(dtype)), all = row * static_cast<size_t>(count);

  ElementwiseArgs parts[] = {args, args};
  parts[0].layout.split(runs, count);
  parts[1].layout.size[runs] = left;
  Offsets at{{}, l.mask_base};
  l.step(at, runs, l.size[runs] - left);
  parts[1].begin(outputs, dtype, at);
  for (int k = outputs; k < l.operands; ++k) {
    if (!begins_again(l, k)) continue;
    char* const copy = copies[k - outputs];
    std::memcpy(copy, args.inputs[k - outputs], row);
    for (size_t have = row; have < all; have *= 2) std::memcpy(copy + have, copy, std::min(have, all - have));
    for (ElementwiseArgs& part : parts) {
      part.inputs[k - outputs] = copy;
      part.layout.stride[k][runs] = l.run();
    }
  }
  for (ElementwiseArgs& part : parts) {
    part.layout.merge();
    run(part);
    if (left == 0) return;
  }
}

// Calls run(part) once or twice, with layouts as the loops take them (`arrange`), which together are the call.
template <class Run>
void with_long_rows(PipelineId pipeline, DType dtype, ElementwiseArgs& args, const Run& run) {
  const auto arranged = [&](ElementwiseArgs& part) {
    arrange(part.layout);
    run(part);
  };
  const int64_t count = runs_in_long_row(args.layout);
  if (count == 1) return arranged(args);
  run_long_rows(outputs_of(pipeline), dtype, args, count, arranged);
}

}  // namespace fused_dropout

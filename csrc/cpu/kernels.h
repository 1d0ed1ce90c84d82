// What is compiled once for each instruction set, in kernels_*.cpp: a table of the kernel families.
#pragma once

#include "../core/block.h"
#include "../core/elementwise.h"
#include "../core/rowwise.h"

namespace fused_dropout {

struct Kernels {
  // Runs the items [begin, end) of a call.
  void (*elementwise)(PipelineId, DType, const ElementwiseArgs&, int64_t begin, int64_t end);
  // Makes the planes [begin, end) of a mask and returns how many elements they keep.
  int64_t (*block_masks)(const BlockArgs&, int64_t begin, int64_t end);
  // Works on the parts [begin, end) of the rows.
  void (*rows)(RowOperation, DType, const RowArgs&, int64_t begin, int64_t end);
  // Adds rows of so many features to their columns' sums, which are of the type computed in.
  void (*add_rows)(DType, const void* rows, int64_t count, int64_t features, void* sums);
};

// Constants, so that nothing compiled for a machine runs before it is known to be that machine.
extern const Kernels kernels_portable, kernels_avx2, kernels_avx512;

}  // namespace fused_dropout

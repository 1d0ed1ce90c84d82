// Sums over all rows on the CPU: each part of the rows has its own, which are then added up.
#pragma once

#include "../core/elementwise.h"

namespace fused_dropout {

// Rows that are summed up together; from the shape alone, so that the sums do not depend on the number of threads.
// `worth` is for how many elements a thread is woken.
int64_t rows_in_part(int64_t rows, int64_t features, int64_t worth);

// The same for run_and_sum.
int64_t rows_in_sum(int64_t rows, int64_t features);

// An elementwise pipeline whose output is contiguous rows of `features`, which its layout counts; `sums` has a row for
// each part, of the type computed in.
void run_and_sum(PipelineId pipeline, DType dtype, const ElementwiseArgs& args, int64_t features, void* sums);

// Adds up `count` rows of sums, in their order, and rounds to the dtype; of so many sums, whose parts lie one behind
// the other.
void sums_of_parts(DType dtype, const void* parts, void* const* sums, int number, int64_t count, int64_t features);

}  // namespace fused_dropout

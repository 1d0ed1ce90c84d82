// The row operations without data: the same checks and symbolic sizes.
#include "rowwise_ops.h"

namespace fused_dropout {
namespace {

struct MetaBackend {
  static constexpr bool kMeta = true;
};

}  // namespace

TORCH_LIBRARY_IMPL(fused_dropout, Meta, m) { register_row_operations<MetaBackend>(m); }

}  // namespace fused_dropout

// Sorting and merging dimensions, on the host, once a call.
#include "layout.h"

#include <utility>

namespace fused_dropout {

bool Layout::unit_inner_strides() const {
  bool unit = true;
  for (int k = 0; k < operands; ++k) unit = unit && stride[k][0] == 1;
  return unit;
}

bool Layout::linear(int bias) const {
  if (ndim > 2 || mask_stride[0] != 1 || !unit_inner_strides()) return false;
  if (ndim == 1) return true;
  bool all = bias >= 0 && mask_stride[1] == static_cast<uint64_t>(size[0]);
  for (int k = 0; k < operands; ++k) all = all && (k == bias ? stride[k][1] == 0 : continues(k, 1));
  return all;
}

void Layout::swap(int a, int b) {
  std::swap(size[a], size[b]);
  for (int k = 0; k < operands; ++k) std::swap(stride[k][a], stride[k][b]);
  std::swap(mask_stride[a], mask_stride[b]);
}

namespace {

// Dimension d continues dimension d - 1 in every operand.
bool operands_continue(const Layout& l, int d) {
  bool all = true;
  for (int k = 0; k < l.operands; ++k) all = all && l.continues(k, d);
  return all;
}

bool mask_continues(const Layout& l, int d) {
  return l.mask_stride[d] == l.mask_stride[d - 1] * static_cast<uint64_t>(l.size[d - 1]);
}

}  // namespace

void Layout::find_runs() {
  flat = 1;
  while (flat < ndim && operands_continue(*this, flat)) ++flat;
}

void Layout::split(int d, int64_t inner) {
  for (int above = ndim++; above > d; --above) swap(above, above - 1);
  size[d] = inner;
  size[d + 1] /= inner;
  for (int k = 0; k < operands; ++k) {
    stride[k][d] = stride[k][d + 1];
    stride[k][d + 1] *= inner;
  }
  mask_stride[d] = mask_stride[d + 1];
  mask_stride[d + 1] *= static_cast<uint64_t>(inner);
}

void Layout::merge() {
  int merged = 1;
  for (int d = 1; d < ndim; ++d) {
    if (merged != d) swap(merged, d);
    if (operands_continue(*this, merged) && mask_continues(*this, merged)) {
      size[merged - 1] *= size[merged];
    } else {
      ++merged;
    }
  }
  ndim = merged;
  find_runs();
}

Layout plan(int ndim, const int64_t* sizes, int operands, const int64_t* const* strides, const uint64_t* mask_strides,
            uint64_t mask_base) {
  Layout l;
  l.ndim = 0;
  l.operands = operands;
  l.mask_base = mask_base;
  for (int from = ndim - 1; from >= 0; --from) {
    if (sizes[from] == 1) continue;
    int d = l.ndim++;
    l.size[d] = sizes[from];
    for (int k = 0; k < operands; ++k) l.stride[k][d] = strides[k][from];
    l.mask_stride[d] = mask_strides[from];
    for (; d > 0 && l.stride[0][d] < l.stride[0][d - 1]; --d) l.swap(d, d - 1);
  }
  if (l.ndim == 0) {  // a single element
    l.ndim = 1;
    l.size[0] = 1;
    for (int k = 0; k < operands; ++k) l.stride[k][0] = 1;
    l.mask_stride[0] = 1;
    l.flat = 1;
    return l;
  }
  l.merge();
  return l;
}

}  // namespace fused_dropout

// The shape of a call: which elements there are, where each operand keeps them, and which mask index each one has.
//
// Everything is one affine map: coordinate -> offset of every operand and mask index, with stride 0 where a mask
// dimension is shared (a noise shape), an operand is expanded, and `mask_base` where a shard begins. `plan` sorts the
// dimensions by the output's memory order, innermost first, and merges neighbours that all maps walk in one stride, so
// that plain dropout of a dense tensor is a single row whatever its shape. Where the mask alone has a stride of its own
// (whole channels, one mask over time), the operands still walk several dimensions as one `run`.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

constexpr int kMaxDims = 64;   // more is refused at the border
constexpr int kMaxInputs = 3;  // tensors an elementwise pipeline may read
constexpr int kMaxOutputs = 2;
constexpr int kMaxOperands = kMaxOutputs + kMaxInputs;

struct Offsets {
  int64_t operand[kMaxOperands];  // in elements; the outputs, then the inputs
  uint64_t mask_index;
};

// A place in the mask of a run: its index, and how many elements from there on lie in the same row.
struct MaskPlace {
  uint64_t index;
  int64_t left;
};

struct Layout {
  int ndim, operands;
  int flat;                // dimensions below it are one run: every operand k walks them in steps of stride[k][0]
  int64_t size[kMaxDims];  // dimension 0 is the innermost
  int64_t stride[kMaxOperands][kMaxDims];
  uint64_t mask_stride[kMaxDims];
  uint64_t mask_base;

  FD_HOST_DEVICE int64_t elements(int first, int last) const {
    int64_t n = 1;
    for (int d = first; d < last; ++d) n *= size[d];
    return n;
  }
  FD_HOST_DEVICE int64_t run() const { return elements(0, flat); }
  FD_HOST_DEVICE int64_t runs() const { return elements(flat, ndim); }

  bool unit_inner_strides() const;
  // One run that all operands and the mask walk in steps of one; operand `bias` may repeat every size[0] elements.
  bool linear(int bias = -1) const;

  // Where index `i`, counted over the dimensions from `first` on, begins; of the first operands alone, if so said.
  template <int kOperands = kMaxOperands>
  FD_HOST_DEVICE Offsets at(int64_t i, int first) const {
    Offsets at{{}, mask_base};
    for (int d = first; d < ndim && i > 0; ++d) step<kOperands>(at, d, take(i, size[d]));
    return at;
  }

  // The mask of element `i` of a run that begins at `index`.
  FD_HOST_DEVICE MaskPlace mask_at(uint64_t index, int64_t i) const {
    int64_t coordinate = i;
    if (flat > 1) {
      coordinate = take(i, size[0]);
      for (int d = 1; d < flat && i > 0; ++d) index += static_cast<uint64_t>(take(i, size[d])) * mask_stride[d];
    }
    return {index + static_cast<uint64_t>(coordinate) * mask_stride[0], size[0] - coordinate};
  }

  // i % size, and leaves i / size in i. In 32 bits where they suffice: on a GPU that takes a fraction of the time.
  static FD_HOST_DEVICE int64_t take(int64_t& i, int64_t size) {
    const int64_t next = (i | size) >> 32 ? i / size : static_cast<uint32_t>(i) / static_cast<uint32_t>(size);
    const int64_t rest = i - next * size;
    i = next;
    return rest;
  }

  template <int kOperands = kMaxOperands>
  FD_HOST_DEVICE void step(Offsets& at, int d, int64_t by) const {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int k = 0; k < kOperands; ++k) {
      if (k < operands) at.operand[k] += by * stride[k][d];
    }
    at.mask_index += static_cast<uint64_t>(by) * mask_stride[d];
  }

  // Whether it is rows of `features` elements, and one dimension, the outermost, counts them.
  bool counts_rows(int64_t features) const {
    return ndim == 1 ? size[0] % features == 0 : elements(0, ndim - 1) == features;
  }
  // How operand k and the mask go from row to row.
  int64_t row_stride(int k, int64_t features) const {
    return ndim == 1 ? features * stride[k][0] : stride[k][ndim - 1];
  }
  uint64_t mask_row_stride(int64_t features) const {
    return ndim == 1 ? static_cast<uint64_t>(features) * mask_stride[0] : mask_stride[ndim - 1];
  }
  // Leaves `count` of these rows, from `first` on; returns where they begin.
  Offsets narrow(int64_t features, int64_t first, int64_t count) {
    const int64_t unit = ndim == 1 ? features : 1;
    Offsets at{{}, mask_base};
    step(at, ndim - 1, first * unit);
    size[ndim - 1] = count * unit;
    mask_base = at.mask_index;
    return at;
  }

  // Dimension d of operand k continues dimension d - 1.
  bool continues(int k, int d) const { return stride[k][d] == stride[k][d - 1] * size[d - 1]; }
  void swap(int a, int b);
  void split(int d, int64_t inner);  // into `inner`, and above that how often it goes in
  void merge();                      // neighbours that all maps walk in one stride, and sets `flat`
  void find_runs();                  // sets `flat`
};

// `strides[k]` are those of operand k, in elements, in the tensor's own order of dimensions, as are the mask strides.
Layout plan(int ndim, const int64_t* sizes, int operands, const int64_t* const* strides, const uint64_t* mask_strides,
            uint64_t mask_base);

}  // namespace fused_dropout

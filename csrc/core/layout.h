// The shape of a call: which elements there are, where each operand keeps them, and which mask index each one has.
//
// Everything is one affine map: coordinate -> offset of every operand and mask index, with stride 0 where a mask
// dimension is shared (a noise shape), an operand is expanded, and `mask_base` where a shard begins. `plan` sorts the
// dimensions by the output's memory order, innermost first, and merges neighbours that all maps walk in one stride, so
// that plain dropout of a dense tensor is a single run whatever its shape.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

constexpr int kMaxDims = 64;   // more is refused at the border
constexpr int kMaxInputs = 3;  // tensors an elementwise pipeline may read
constexpr int kMaxOperands = 1 + kMaxInputs;

struct Offsets {
  int64_t operand[kMaxOperands];  // in elements; operand 0 is the output
  uint64_t mask_index;
};

struct Layout {
  int ndim, operands;
  int64_t size[kMaxDims];  // dimension 0 is the innermost
  int64_t stride[kMaxOperands][kMaxDims];
  uint64_t mask_stride[kMaxDims];
  uint64_t mask_base;

  FD_HOST_DEVICE int64_t rows() const {
    int64_t n = 1;
    for (int d = 1; d < ndim; ++d) n *= size[d];
    return n;
  }

  FD_HOST_DEVICE bool unit_inner_strides() const {
    bool unit = true;
    for (int k = 0; k < operands; ++k) unit = unit && stride[k][0] == 1;
    return unit;
  }

  // One run that all operands and the mask walk in steps of one.
  FD_HOST_DEVICE bool linear() const { return ndim == 1 && mask_stride[0] == 1 && unit_inner_strides(); }

  // Where index `i`, counted over the dimensions from `first` on, begins. 32-bit division where it suffices: on a GPU
  // it takes a fraction of the time.
  FD_HOST_DEVICE Offsets at(int64_t i, int first = 1) const {
    Offsets at{{}, mask_base};
    for (int d = first; d < ndim && i > 0; ++d) {
      const int64_t next =
          (i | size[d]) >> 32 ? i / size[d] : static_cast<uint32_t>(i) / static_cast<uint32_t>(size[d]);
      step(at, d, i - next * size[d]);
      i = next;
    }
    return at;
  }

  FD_HOST_DEVICE void step(Offsets& at, int d, int64_t by) const {
#if defined(__CUDACC__)
#pragma unroll
#endif
    for (int k = 0; k < kMaxOperands; ++k) {
      if (k < operands) at.operand[k] += by * stride[k][d];
    }
    at.mask_index += static_cast<uint64_t>(by) * mask_stride[d];
  }

  void swap(int a, int b);
};

// `strides[k]` are those of operand k, in elements, in the tensor's own order of dimensions, as are the mask strides.
Layout plan(int ndim, const int64_t* sizes, int operands, const int64_t* const* strides, const uint64_t* mask_strides,
            uint64_t mask_base);

}  // namespace fused_dropout

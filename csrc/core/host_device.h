// The macros of the core: a function that the host and the device compile from the same source.
//
// FD_HOST_DEVICE is always inlined, so that a translation unit built for one instruction set never leaves an
// out-of-line copy that the linker could pick for the others. FD_COLD is for what runs once in thousands of elements:
// out of line, so that it costs the hot path no registers, and `static`, for the same reason as above.
// FD_INLINE_LAMBDA stands behind the parameters of a lambda of the host's.
#pragma once

#if defined(__CUDACC__)
#define FD_HOST_DEVICE __host__ __device__ __forceinline__
#define FD_COLD static __host__ __device__ __noinline__
#else
#define FD_INLINE_LAMBDA __attribute__((always_inline))
#define FD_HOST_DEVICE inline __attribute__((always_inline))
#define FD_COLD static inline __attribute__((noinline))
#endif

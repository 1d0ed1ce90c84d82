// The one macro of the core: a function that the host and the device compile from the same source.
//
// Always inlined, so that a translation unit built for one instruction set never leaves an out-of-line copy that the
// linker could pick for the others.
#pragma once

#if defined(__CUDACC__)
#define FD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FD_HOST_DEVICE inline __attribute__((always_inline))
#endif

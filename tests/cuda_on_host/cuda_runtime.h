// Runs the CUDA kernels' own source on the host, so that a machine without a GPU can check every element they write.
//
// A block's threads are fibers of one OS thread. They run one after the other, and stop where they have to meet: where
// a warp exchanges values (__shfl_sync) and where a block waits for all of its threads (__syncthreads). Nothing else of
// CUDA's memory model is needed by these kernels. Blocks run one after the other, so that shared memory is static.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
enum cudaError_t { cudaSuccess };
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  cudaStream_t stream;
};

inline dim3 threadIdx, blockIdx;

namespace cuda_on_host {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 128 * 1024;
inline uint64_t first_block = 0, last_block = UINT64_MAX;  // what part of the grid to run

// Where it is set, launches are told to it, and nothing runs: proof/ptx does, by the machine's own code.
using Launched = void (*)(const void* kernel, uint32_t blocks, uint32_t threads, const void* args, uint64_t bytes);
inline Launched on_launch = nullptr;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool done = false;
  uint32_t offered = 0;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  unsigned current = 0, waiting = 0;
  uint64_t meetings = 0;  // of all threads
  void (*body)(const void*) = nullptr;
  const void* work = nullptr;
};
inline Block block;

inline void enter() {
  block.body(block.work);
  block.fibers[block.current].done = true;
  swapcontext(&block.fibers[block.current].context, &block.scheduler);
}

inline void pause() { swapcontext(&block.fibers[block.current].context, &block.scheduler); }

// All lanes offer their value, then all read: each round of the scheduler brings every fiber to its next meeting point.
inline uint32_t shuffle(uint32_t value, unsigned from) {
  const unsigned self = block.current;
  block.fibers[self].offered = value;
  pause();
  const uint32_t received = block.fibers[self / kWarp * kWarp + from % kWarp].offered;
  pause();
  return received;
}

inline void wait_for_all() {
  const uint64_t meeting = block.meetings;
  if (++block.waiting == block.fibers.size()) {
    block.waiting = 0;
    ++block.meetings;
  }
  do {
    pause();
  } while (block.meetings == meeting);
}

template <class Work>
void run_block(const Work& work, unsigned threads) {
  block.work = &work;
  block.body = [](const void* w) { (*static_cast<const Work*>(w))(); };
  block.fibers.resize(threads);
  block.waiting = 0;
  for (Fiber& fiber : block.fibers) {
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool any = true; any;) {
    any = false;
    for (unsigned thread = 0; thread < threads; ++thread) {
      if (block.fibers[thread].done) continue;
      any = true;
      block.current = thread;
      threadIdx = dim3(thread);
      swapcontext(&block.scheduler, &block.fibers[thread].context);
    }
  }
}

}  // namespace cuda_on_host

inline uint32_t __shfl_sync(unsigned, uint32_t value, int from) {
  return cuda_on_host::shuffle(value, static_cast<unsigned>(from));
}

inline void __syncthreads() { cuda_on_host::wait_for_all(); }

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }
inline void atomicAdd(unsigned long long* p, unsigned long long by) { *p += by; }

inline bool __isGlobal(const void*) { return true; }
#if !__has_builtin(__builtin_assume)
inline void __builtin_assume(bool) {}
#endif

template <class Word>
inline void __stwb(Word* p, Word value) {
  *p = value;
}

template <class Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Args), const Args& args) {
  if (cuda_on_host::on_launch != nullptr) {
    const auto address = reinterpret_cast<const void*>(kernel);
    cuda_on_host::on_launch(address, config->gridDim.x, config->blockDim.x, &args, sizeof(Args));
    return cudaSuccess;
  }
  const auto work = [&] { kernel(args); };
  for (uint64_t b = cuda_on_host::first_block; b < config->gridDim.x && b <= cuda_on_host::last_block; ++b) {
    blockIdx = dim3(static_cast<unsigned>(b));
    cuda_on_host::run_block(work, config->blockDim.x);
  }
  return cudaSuccess;
}

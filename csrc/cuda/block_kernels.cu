// The masks of DropBlock on the GPU: the seeds first, a byte a thread, then 32 elements a thread, and their count.
#include "block.h"
#include "launch.h"
#include "octet.cuh"

namespace fused_dropout {
namespace {

constexpr int kBytesInWord = 8;

// Nothing is left of the state here: the kernel that applies the mask leaves it.
__global__ void __launch_bounds__(kThreads) seeds_kernel(const __grid_constant__ BlockArgs a) {
  const int64_t bytes = a.map.seed_words() * kBytesInWord;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, plane = i / bytes;
  if (plane >= a.map.planes()) return;
  const Mask mask(a.state.load(), a.p.load());
  const uint64_t seed = a.map.first_seed(plane) + static_cast<uint64_t>(i - plane * bytes) * kGroup;
  reinterpret_cast<uint8_t*>(a.seed_bits)[i] = static_cast<uint8_t>(~keep_octet(mask, seed));
}

__global__ void __launch_bounds__(kThreads) blocks_kernel(const __grid_constant__ BlockArgs a) {
  const int64_t halves = a.map.words() * 2;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, plane = i / halves;
  uint32_t kept = 0;
  if (plane < a.map.planes()) {
    const uint32_t keep = a.map.kept_half(a.seed_bits + plane * a.map.seed_words(), i - plane * halves);
    reinterpret_cast<uint32_t*>(a.keep_bits)[i] = keep;
    kept = static_cast<uint32_t>(__popc(keep));
  }
  // One addition a warp; of integers, so that their order does not matter.
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) kept += __shfl_sync(0xffffffffu, kept, lane ^ step);
  if (lane == 0) atomicAdd(reinterpret_cast<unsigned long long*>(a.kept), kept);
}

}  // namespace

cudaError_t launch_blocks(const BlockArgs& args, cudaStream_t stream) {
  const BlockMap& map = args.map;
  const cudaError_t error = launch(seeds_kernel, args, map.planes() * map.seed_words() * kBytesInWord, stream);
  return error == cudaSuccess ? launch(blocks_kernel, args, map.planes() * map.words() * 2, stream) : error;
}

}  // namespace fused_dropout

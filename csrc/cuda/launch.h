// Launch geometry, and the launch. A mask does not depend on any of it, so these are free to be what is fastest.
//
// None of these constants has been measured on a GPU yet; each says what it was derived from.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fused_dropout {

constexpr int kWarp = 32;

// 8 warps a block: 8 blocks fill the 2,048 threads of an sm_80 to sm_100 multiprocessor, and a block is small enough
// that the last wave of a large tensor leaves few of them idle. A thread takes 8 elements, 16 bytes and more of each
// operand: at half occupancy 16 KiB a multiprocessor are in flight, twice what its share of HBM3e's 4.8 TB/s times a
// latency of 0.5 us asks for.
constexpr int kThreads = 256;

// Octets that a thread of the linear kernel takes: 64 bytes of all inputs are under way (of a bias, which lies in a
// cache, as many again), and the round keys, the place and whether state and p lie in memory are paid once. What is
// long takes one, since each is a copy of the code.
template <class Pipeline, class T>
constexpr int kStreamBytes = sizeof(T) * (Pipeline::kInputs - (Pipeline::kBias >= 0 ? 1 : 0));
template <class Pipeline, class T>
constexpr int kLinearOctets = Pipeline::kLong || kStreamBytes<Pipeline, T> > 4        ? 1
                              : kStreamBytes<Pipeline, T> > 2 || Pipeline::kBias >= 0 ? 2
                                                                                      : 4;

// A block of it takes 2,048 elements, whatever a thread takes: 2^20 of them are 512 blocks, for each multiprocessor
// some.
template <class Pipeline, class T>
constexpr int kLinearThreads = kThreads / kLinearOctets<Pipeline, T>;

// Blocks a multiprocessor, at least, which caps the registers: 72 a thread that takes several octets, so that its loads
// are under way before the masks are made (56 KiB a multiprocessor; with 64 nvcc puts them behind), 48 one of one octet
// and 80 where that is 64 bytes of an operand (128 with more than three operands). Where every access has an address of
// its own 64 (80 in float64 or with three operands of 16 bits, 128 with more). None of them spills
// (tests/test_machine_code.py).
template <class Pipeline, class T>
constexpr int kLinearBlocks = kLinearOctets<Pipeline, T> > 1               ? 7 * kLinearOctets<Pipeline, T> / 2
                              : sizeof(T) != 8                             ? 5
                              : Pipeline::kInputs + Pipeline::kOutputs > 3 ? 2
                                                                           : 3;
template <class T, int kOperands>
constexpr int kStridedBlocks = kOperands > (sizeof(T) == 2 ? 3 : 2) ? 2
                               : sizeof(T) == 8 || kOperands > 2    ? 3
                                                                    : 4;

// Row operations: octets of a row that a thread holds, 32 registers for each value that is kept, two values at most,
// and as many for the sums of columns. A warp takes rows up to 1,024 elements (512 of float64), which leaves its lanes
// 16 bytes of each operand at once, a block up to 8,192; both are the widths of most models.
template <class T>
constexpr int kRowOctets = sizeof(T) == 8 ? 2 : 4;

// Blocks a multiprocessor, at least. A thread that holds octets takes what registers it wants, up to 234; one that
// holds none is to leave room for others. None of them spills.
template <class T, bool kFits>
constexpr int kRowBlocks = kFits            ? 1
                           : sizeof(T) == 8 ? 2
                                            : 3;

// Parts of the rows that have sums of columns of their own, at most. So many warps leave 8 a multiprocessor of an H200,
// with one octet of each tensor under way; their sums are 5 % of the memory traffic of 16,384 rows of bfloat16.
constexpr int64_t kRowParts = 1024;

// Blocks of an elementwise kernel that sums up what it writes, at most, where a row has no more tiles: 8 a
// multiprocessor of an H200. For 4,096 rows of 4,096 bfloat16 elements their sums are 3 % of the memory traffic.
constexpr int64_t kSumBlocks = 1024;

// Threads of a block that adds up the sums of parts: of 1,024 parts each reads 32, four at a time, and 1,024 columns
// are 32 blocks.
constexpr int kSumThreads = 1024;

// Starts at least one block; 2^31 - 1 of them take 4 * 10^12 elements.
template <class Args>
cudaError_t launch(void (*kernel)(Args), const Args& args, int64_t threads, cudaStream_t stream,
                   int threads_of_block = kThreads) {
  const int64_t blocks = (threads + threads_of_block - 1) / threads_of_block;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads_of_block));
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace fused_dropout

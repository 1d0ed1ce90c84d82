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

// Blocks a multiprocessor, at least, which caps the registers: 48 a thread where a thread holds 32 bytes of an operand,
// 80 where it holds 64 (128 with more than three operands), 64 where every access has an address of its own (80 in
// float64 or with three operands, 128 with more). None of them spills (tests/test_machine_code.py).
template <class T, int kOperands>
constexpr int kLinearBlocks = sizeof(T) != 8  ? 5
                              : kOperands > 3 ? 2
                                              : 3;
template <class T, int kOperands>
constexpr int kStridedBlocks = kOperands > 3                     ? 2
                               : sizeof(T) == 8 || kOperands > 2 ? 3
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
// with 192 bytes a lane under way; their sums are 5 % of the memory traffic of 16,384 rows of bfloat16.
constexpr int64_t kRowParts = 1024;

// Blocks of an elementwise kernel that sums up what it writes, at most, where a row has no more tiles: 8 a
// multiprocessor of an H200. For 4,096 rows of 4,096 bfloat16 elements their sums are 3 % of the memory traffic.
constexpr int64_t kSumBlocks = 1024;

// Starts at least one block; 2^31 - 1 of them take 4 * 10^12 elements.
template <class Args>
cudaError_t launch(void (*kernel)(Args), const Args& args, int64_t threads, cudaStream_t stream) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks < 1 ? 1 : blocks));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args);
}

}  // namespace fused_dropout

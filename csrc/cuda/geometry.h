// Launch geometry. A mask does not depend on any of it, so these are free to be what is fastest.
//
// None of these constants has been measured on a GPU yet; each says what it was derived from.
#pragma once

#include <cstdint>

namespace fused_dropout {

constexpr int kWarp = 32;

// 8 warps a block: 8 blocks fill the 2,048 threads of an sm_80 to sm_100 multiprocessor, and a block is small enough
// that the last wave of a large tensor leaves few of them idle.
constexpr int kThreads = 256;

// Octets (8 elements, one Philox block) a thread: 32 bytes of each operand in flight a thread, 64 KiB a multiprocessor
// at full occupancy, about twice what its share of HBM3e bandwidth times latency asks for.
template <class T>
constexpr int kOctets = sizeof(T) == 2 ? 2 : 1;

inline unsigned blocks_for(int64_t threads) {
  const int64_t blocks = (threads + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks);  // 2^31 - 1 blocks are 4 * 10^12 elements
}

}  // namespace fused_dropout

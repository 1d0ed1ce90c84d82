// What every kernel does with eight elements: decide about them, and put them through a pipeline.
#pragma once

#include <utility>

#include "../core/bits.h"
#include "../core/layout.h"
#include "../core/mask.h"
#include "../core/normal.h"
#include "../core/pipeline.h"
#include "launch.h"
#include "vector.cuh"

namespace fused_dropout {

// A kernel that drew its state on the device leaves a copy for the backward.
__device__ __forceinline__ State load_state(const StateSource& source, int64_t* state_out) {
  const State state = source.load();
  if (state_out != nullptr && blockIdx.x == 0 && threadIdx.x == 0) {
    state_out[0] = static_cast<int64_t>(state.seed);
    state_out[1] = static_cast<int64_t>(state.offset & ~uint64_t{3});
  }
  return state;
}

// Keep bits that lie in memory (the blocks of DropBlock), by mask index.
struct StoredMask {
  const uint64_t* words;

  __device__ __forceinline__ bool keep(uint64_t mask_index) const {
    return words[mask_index / 64] >> mask_index % 64 & 1;
  }
  __device__ __forceinline__ uint32_t keep_group(uint64_t group) const {
    return static_cast<uint32_t>(words[group / kGroup] >> group % kGroup * kGroup) & 0xff;
  }
};

// The keep bits of 8 consecutive mask indices, from any index on; the bits above them are of no meaning.
__device__ __forceinline__ uint32_t keep_octet(const Mask& mask, uint64_t mask_index) {
  const uint32_t skip = static_cast<uint32_t>(mask_index % kGroup);
  uint32_t bits = 0;
#pragma unroll 1  // one copy of the generator in the code, run once where the mask is aligned to the octet
  for (uint32_t group = 0; group < (skip ? 2u : 1u); ++group) {
    bits |= mask.keep_group(mask_index / kGroup + group) << (kGroup * group);
  }
  return bits >> skip;
}
__device__ __forceinline__ uint32_t keep_octet(const StoredMask& mask, uint64_t mask_index) {
  return static_cast<uint32_t>(bits_at(mask.words, static_cast<int64_t>(mask_index)));
}

// The keep bits of `count` elements of a run, up to 8, from element `from` on. A run whose rows have masks of their own
// is put together from them; short rows (the parts of complex numbers) that share a group make it once.
template <class AnyMask>
__device__ __forceinline__ uint32_t keep_in_run(const AnyMask& mask, const Layout& layout, uint64_t mask_index,
                                                int64_t from, int count) {
  const uint64_t mask_stride = layout.mask_stride[0];
  uint64_t made = 0;  // the group whose keep bits `octet` holds
  uint32_t bits = 0, octet = 0;
#pragma unroll 1
  for (int done = 0; done < count;) {
    const MaskPlace place = layout.mask_at(mask_index, from + done);
    const int n = place.left < count - done ? static_cast<int>(place.left) : count - done;
    uint32_t some = 0;
    if (mask_stride == 1) {
      some = keep_octet(mask, place.index);
    } else if (mask_stride == 0) {
      const uint64_t group = place.index / kGroup;
      if (done == 0 || group != made) octet = mask.keep_group(group);
      made = group;
      some = octet >> place.index % kGroup & 1 ? 0xffu : 0u;
    } else {
      for (int i = 0; i < n; ++i) {
        some |= static_cast<uint32_t>(mask.keep(place.index + static_cast<uint64_t>(i) * mask_stride)) << i;
      }
    }
    bits |= (some & ((1u << n) - 1)) << done;
    done += n;
  }
  return bits;
}

// The keep bits of access j of a lane, where an access has N elements: the octet they belong to is another lane's.
template <int N>
__device__ __forceinline__ uint32_t octet_of(uint32_t octet, int j, int lane) {
  return __shfl_sync(0xffffffffu, octet, (j * kWarp + lane) * N / kGroup) >> (lane * N % kGroup);
}

// The normal numbers of a group.
template <class C>
__device__ __forceinline__ void normal_group(const Mask& mask, uint64_t group, C (&z)[kGroup]) {
  const PhiloxBlock<uint64_t> high = mask_block(mask.seed, mask.step, group);
  const PhiloxBlock<uint64_t> low = mask_block(mask.seed, mask.step + 1, group);
#pragma unroll
  for (int lane = 0; lane < kGroup; lane += 2) {
    const NormalPair<C> pair =
        normal_pair<C>(half(high, lane) << 16 | half(low, lane), half(high, lane + 1) << 16 | half(low, lane + 1));
    z[lane] = pair.even;
    z[lane + 1] = pair.odd;
  }
}

// One normal number, where eight are not neighbours. Out of line: it is large.
template <class C>
__device__ __noinline__ C normal_one(uint64_t seed, uint64_t step, uint64_t mask_index) {
  const Mask mask({seed, step << 2}, Probability{0});
  const NormalPair<C> pair = normal_pair<C>(mask.word(mask_index & ~uint64_t{1}), mask.word(mask_index | 1));
  return mask_index & 1 ? pair.odd : pair.even;
}

__device__ __forceinline__ bool decision(uint32_t keep, int i) { return keep >> i & 1; }
template <class C>
__device__ __forceinline__ C decision(const C* z, int i) {
  return z[i];
}

// Computes N elements from their keep bits (the lowest of a word) or their normal numbers; with N = 1 this is the tail
// and the strided access.
template <int N, class Decisions, class Pipeline, class T, size_t... K>
__device__ __forceinline__ void compute(const Pipeline& pipeline, Decisions decisions,
                                        const Packed<T, N> (&x)[Pipeline::kInputs + 1],
                                        Packed<T, N> (&y)[Pipeline::kOutputs], std::index_sequence<K...>) {
  using C = Compute<T>;
  C in[Pipeline::kInputs + 1][N], out[Pipeline::kOutputs][N];
  (Convert<T>::template up<N>(x[K], in[K]), ...);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    if constexpr (Pipeline::kInputs == 0) {
      out[0][i] = pipeline(decision(decisions, i), C(0));
    } else if constexpr (Pipeline::kOutputs == 2) {
      const Two<C> both = pipeline(decision(decisions, i), in[K][i]...);
      out[0][i] = both.first;
      out[1][i] = both.second;
    } else {
      out[0][i] = pipeline(decision(decisions, i), in[K][i]...);
    }
  }
#pragma unroll
  for (int k = 0; k < Pipeline::kOutputs; ++k) Convert<T>::template down<N>(out[k], y[k]);
}

}  // namespace fused_dropout

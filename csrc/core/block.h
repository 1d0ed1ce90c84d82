// The mask of DropBlock (Ghiasi et al. 2018): each seed that is dropped takes a block of elements with it.
//
// Seeds lie on a grid of their own, a plane of it for each plane (sample and channel) of the mask, and are decided as
// elements of dropout are. Both grids are packed bits, each plane beginning at a word of 64.
#pragma once

#include "bits.h"
#include "mask.h"

namespace fused_dropout {

struct BlockMap {
  int64_t samples, channels;                          // of the mask: 1 where they share it
  uint64_t sample_stride, channel_stride, mask_base;  // mask index of a plane's first seed
  int64_t height, width;                              // of the mask
  int64_t block_height, block_width;
  int64_t seeds_height, seeds_width;
  int64_t top, left;  // where the block of seed (0, 0) begins: 0, or before the border, which then clips it

  FD_HOST_DEVICE int64_t planes() const { return samples * channels; }
  FD_HOST_DEVICE int64_t elements() const { return height * width; }  // of a plane
  FD_HOST_DEVICE int64_t seeds() const { return seeds_height * seeds_width; }
  FD_HOST_DEVICE int64_t words() const { return (elements() + 63) / 64; }
  FD_HOST_DEVICE int64_t seed_words() const { return (seeds() + 63) / 64; }
  FD_HOST_DEVICE uint64_t first_seed(int64_t plane) const {
    return mask_base + static_cast<uint64_t>(plane / channels) * sample_stride +
           static_cast<uint64_t>(plane % channels) * channel_stride;
  }

  // Bit b tells whether the seed in row i and column j + b is dropped; there is none outside of the grid.
  FD_HOST_DEVICE uint64_t seeds_at(const uint64_t* dropped, int64_t i, int64_t j) const {
    const int64_t first = j < 0 ? 0 : j, before = first - j, left_in_row = seeds_width - first;
    if (left_in_row <= 0 || before >= 64) return 0;
    const uint64_t bits = bits_at(dropped, i * seeds_width + first);
    return (left_in_row < 64 ? bits & ((uint64_t{1} << left_in_row) - 1) : bits) << before;
  }

  // Bit b tells whether a block covers the element in row h and column w + b; for up to 32 of them.
  FD_HOST_DEVICE uint64_t covered_at(const uint64_t* dropped, int64_t h, int64_t w) const {
    const int64_t last = h - top < seeds_height - 1 ? h - top : seeds_height - 1;
    const int64_t above = h - top - block_height + 1, first = above < 0 ? 0 : above;
    uint64_t covered = 0;
    constexpr int64_t kPart = 32;  // columns of a block: 64 bits hold what is asked for and that much on its left
    for (int64_t part = 0; part < block_width; part += kPart) {
      const int64_t columns = block_width - part < kPart ? block_width - part : kPart;
      uint64_t any = 0;
      for (int64_t i = first; i <= last; ++i) any |= seeds_at(dropped, i, w - left - block_width + 1 + part);
      for (int64_t have = 1; have < columns;) {
        const int64_t by = have < columns - have ? have : columns - have;
        any |= any >> by;
        have += by;
      }
      covered |= any;
    }
    return covered;
  }

  // Bits 32 * half to 32 * half + 31 of a plane: whether no block covers the element; 0 behind the last one.
  FD_HOST_DEVICE uint32_t kept_half(const uint64_t* dropped, int64_t half) const {
    int64_t element = 32 * half, h = element / width, w = element - h * width;
    uint64_t keep = 0;
    for (int64_t done = 0; done < 32 && element < elements(); ++h, w = 0) {
      const int64_t rest = 32 - done, count = width - w < rest ? width - w : rest;
      keep |= (~covered_at(dropped, h, w) & ((uint64_t{1} << count) - 1)) << done;
      done += count;
      element += count;
    }
    return static_cast<uint32_t>(keep);
  }
};

struct BlockArgs {
  BlockMap map;
  StateSource state;
  ProbabilitySource p;  // of a seed to be dropped
  uint64_t* seed_bits;  // 1 = dropped; planes() * seed_words() and a word more; the CPU needs none
  uint64_t* keep_bits;  // planes() * words(), and whatever a reader wants behind them
  int64_t* kept;        // how many elements are kept, to be added to
};

}  // namespace fused_dropout

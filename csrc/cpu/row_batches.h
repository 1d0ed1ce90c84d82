// The rows of a row operation in batches of 64 elements: where their operands lie, and who decides about them.
#pragma once

#include <algorithm>

#include "../core/row_operations.h"
#include "decisions.h"

namespace fused_dropout {

// 64 truth values of a byte each, or the first of them, as bits.
FD_HOST_DEVICE uint64_t bits_of_bytes(const uint8_t* bytes, int64_t count) {
  uint64_t bits = 0;
  if (count < kBatch) {
    for (int64_t i = 0; i < count; ++i) bits |= static_cast<uint64_t>(bytes[i]) << i;
    return bits;
  }
  // A multiplication brings the lowest bits of eight bytes together in the highest byte.
  for (int i = 0; i < kBatch; i += 8) bits |= (load_bytes<uint64_t>(bytes + i) * 0x0102040810204080u >> 56) << i;
  return bits;
}

template <class Isa, class Op, class T>
class RowBatches {
 protected:
  using C = Compute<T>;
  using V = Vec<Isa, C>;
  static constexpr int kLanes = V::kLanes, kInputs = Op::kInputs, kKept = Op::kKept;
  static constexpr int kWeight = kInputs, kBias = kInputs + 1, kAttnMask = kInputs + 2, kRead = kInputs + 3;
  static constexpr int kFirst = 0, kOutput = 1, kSecond = 2, kWritten = 3;

  // Where the operands of a row lie; null where there is none.
  struct Row {
    const T* read[kRead];
    T* written[kWritten];
    const uint8_t* some;
    uint64_t mask_index;
  };
  // 64 elements, of which the operands begin at `i`; in the row they begin at `at`. The last one of a row may have
  // less.
  struct Batch {
    Row row;
    int64_t i, at;
    uint64_t valid, keep, attend;
  };
  // What a pass over a row does: whether it asks who is kept, makes what is kept of elements, and writes the results.
  struct Pass {
    bool asks_mask, makes, finishes;
  };

  explicit RowBatches(const RowArgs& args)
      : args_(args), decisions_(KeepMaker<Isa>(Mask(args.state.load(), args.p.load()))) {}

  Row row_at(int64_t r) const {
    Row row{};
    const int64_t from = r * args_.features;
    const Offsets at = args_.places.at(r, 0);
    for (int k = 0; k < kInputs; ++k) row.read[k] = offset(args_.input[k], from);
    row.read[kWeight] = static_cast<const T*>(args_.weight);
    row.read[kBias] = static_cast<const T*>(args_.bias);
    if (args_.attend == Attend::kBiased) row.read[kAttnMask] = offset(args_.attn_mask, at.operand[1]);
    if (args_.attend == Attend::kSome) row.some = static_cast<const uint8_t*>(args_.attn_mask) + at.operand[1];
    row.written[kFirst] = offset(args_.first, from);
    row.written[kOutput] = offset(args_.output, from);
    row.written[kSecond] = offset(args_.second, from);
    row.mask_index = at.mask_index;
    return row;
  }
  static const T* offset(const void* p, int64_t by) { return p ? static_cast<const T*>(p) + by : nullptr; }
  static T* offset(void* p, int64_t by) { return p ? static_cast<T*>(p) + by : nullptr; }

  // Calls body(Batch) for all batches. The last one, where it is shorter, is the same on copies of its elements.
  template <class Body>
  FD_HOST_DEVICE void each_batch(const Row& row, Pass pass, const Body& body) {
    const int64_t n = args_.features;
    for (int64_t at = 0; at < n; at += kBatch) {
      const int64_t count = std::min<int64_t>(kBatch, n - at);
      Batch batch{row, at, at, ~uint64_t{0}, keep(row, at, pass.asks_mask), attend(row, at, count)};
      const bool part = __builtin_expect(count < kBatch, 0);
      alignas(64) T copy[kRead + kWritten][kBatch];
      if (part) shorten(batch, count, copy);
      body(batch);
      for (int k = 0; k < kWritten && part; ++k) {
        if (row.written[k] && (k == kFirst ? pass.makes : pass.finishes))
          std::copy_n(copy[kRead + k], count, row.written[k] + at);
      }
    }
  }

  __attribute__((noinline)) static void shorten(Batch& batch, int64_t count, T (&copy)[kRead + kWritten][kBatch]) {
    std::memset(copy, 0, sizeof(copy));
    for (int k = 0; k < kRead; ++k) {
      if (batch.row.read[k] == nullptr) continue;
      std::copy_n(batch.row.read[k] + batch.at, count, copy[k]);
      batch.row.read[k] = copy[k];
    }
    for (int k = 0; k < kWritten; ++k) {
      if (batch.row.written[k] != nullptr) batch.row.written[k] = copy[kRead + k];
    }
    batch.i = 0;
    batch.valid = (uint64_t{1} << count) - 1;
  }

  // Two registers at a time. Unrolled where a batch is few registers, so that the partial sums stay in them.
  template <class Body>
  static FD_HOST_DEVICE void each_pair(const Body& body) {
    if constexpr (kBatch / kLanes <= 8) {
#pragma GCC unroll 4
      for (int lane = 0; lane < kBatch; lane += 2 * kLanes) body(lane);
    } else {
      for (int lane = 0; lane < kBatch; lane += 2 * kLanes) body(lane);
    }
  }

  // Of register `half` of the pair that begins at `lane`: its bits, and below its elements.
  static FD_HOST_DEVICE auto lanes_of(uint64_t bits, int lane, int half) {
    return V::template keep_at<T>(bits, lane, half);
  }
  static FD_HOST_DEVICE V read(const Batch& b, int k, int lane, int half, C otherwise) {
    return b.row.read[k] ? V::load(b.row.read[k] + b.i + lane, half) : V(otherwise);
  }

  // What is kept of one register of elements, made from the inputs.
  static FD_HOST_DEVICE void make(const Op& op, const Batch& b, int lane, int half, V (&kept)[kKept]) {
    V x[kInputs];
    for (int k = 0; k < kInputs; ++k) {  // the third may be missing
      x[k] = k < 2 ? V::load(b.row.read[k] + b.i + lane, half) : read(b, k, lane, half, C(0));
    }
    if constexpr (Op::kAttends) {
      x[0] = x[0] * V(op.row.constant);
      if (b.row.read[kAttnMask] != nullptr) x[0] = x[0] + V::load(b.row.read[kAttnMask] + b.i + lane, half);
      if (b.row.some != nullptr) {
        x[0] = select(lanes_of(b.attend, lane, half), x[0], V(-static_cast<C>(HUGE_VAL)));
      }
    }
    op.begin(lanes_of(b.keep, lane, half), x, kept);
  }

  const RowArgs& args_;

 private:
  FD_HOST_DEVICE uint64_t keep(const Row& row, int64_t at, bool needed) {
    if (!needed || !args_.masked) return ~uint64_t{0};
    return decisions_.whole(row.mask_index + static_cast<uint64_t>(at) * args_.mask_stride, args_.mask_stride);
  }
  FD_HOST_DEVICE uint64_t attend(const Row& row, int64_t at, int64_t count) const {
    return Op::kAttends && row.some ? bits_of_bytes(row.some + at, count) : ~uint64_t{0};
  }
  KeepDecisions<KeepMaker<Isa>> decisions_;
};

}  // namespace fused_dropout

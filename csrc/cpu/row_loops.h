// The CPU loops of every row operation (core/rowwise.h): a row at a time, in batches of 64 elements.
//
// A sum has 64 partial sums, element i of a row adding to number i % 64, which are added up as a tree: the order, and
// so the result, is that of every instruction set. What is kept of a row's elements lies in a buffer that the first two
// caches hold; of a longer row it is made again for each round. A part of the rows has its own sums of columns, and
// what is a part follows from the shape alone, so these do not depend on the number of threads.
//
// Sums and what is kept lie in memory as registers hold them, which is not always the elements' order (kInTurns).
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "row_batches.h"

namespace fused_dropout {

constexpr int64_t kRowBuffer = int64_t{1} << 15;  // elements: 128 KiB of float32, a quarter of a small second cache

template <class Isa, class Op, class T>
class RowLoops : RowBatches<Isa, Op, T> {
  using Base = RowBatches<Isa, Op, T>;
  using Base::args_;
  using Base::each_batch;
  using Base::each_pair;
  using Base::kKept;
  using Base::kLanes;
  using Base::lanes_of;
  using Base::make;
  using Base::read;
  using typename Base::Batch;
  using typename Base::C;
  using typename Base::Row;
  using typename Base::V;
  static constexpr int kSums = Op::kSums;

  struct Partial {
    V sum[kSums][kBatch / kLanes];
  };

 public:
  explicit RowLoops(const RowArgs& args)
      : Base(args),
        op_(RowConstants<C>(args, args.p.load())),
        padded_((args.features + kBatch - 1) / kBatch * kBatch),
        fits_(!Op::kRecomputes && padded_ <= kRowBuffer),
        buffer_(fits_ ? static_cast<size_t>(padded_ * kKept) : 0) {}

  void run(int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      for (std::vector<C>& column : columns_) column.assign(static_cast<size_t>(padded_), C(0));
      const int64_t last = std::min(args_.rows, (part + 1) * args_.rows_in_part);
      for (int64_t r = part * args_.rows_in_part; r < last; ++r) one_row(r);
      for (int j = 0; j < Op::kColumns; ++j) {
        C* const to = static_cast<C*>(args_.column[j]);
        if (to == nullptr) continue;
        put_in_order(columns_[j]);
        std::copy_n(columns_[j].data(), args_.features, to + part * args_.features);
      }
    }
  }

 private:
  void one_row(int64_t r) {
    const Row row = Base::row_at(r);
    for (int k = 0; k < 2 && Op::kBackward; ++k) {
      if (args_.statistic[k]) op_.statistic[k] = without_payload(static_cast<const C*>(args_.statistic[k])[r]);
    }
    round<0>(row);
    if constexpr (Op::kRounds > 1) round<1>(row);
    for (int k = 0; k < 2 && !Op::kBackward; ++k) {
      if (args_.statistic[k]) static_cast<C*>(args_.statistic[k])[r] = op_.statistic[k];
    }
    results(row);
  }

  // A GPU's nan has a payload that rounding to bfloat16 would carry into the sign (Vec::store).
  static C without_payload(C x) { return x == x ? x : std::numeric_limits<C>::quiet_NaN(); }

  // What is kept of two registers of elements before round kRound; behind the last one, before the results. `buffer` is
  // null where it is made again each time.
  template <int kRound>
  static FD_HOST_DEVICE void recall(const Op& op, const Batch& b, int lane, const C* buffer, int64_t padded,
                                    V (&kept)[2][kKept]) {
    if (kRound > 0 && buffer != nullptr) {
      for (int h = 0; h < 2; ++h) {
        for (int k = 0; k < kKept; ++k) kept[h][k] = V::load(buffer + k * padded + b.at + lane, h);
        if (kRound == 1) op.template step<1>(kept[h]);
      }
      return;
    }
    for (int h = 0; h < 2; ++h) make(op, b, lane, h, kept[h]);
    if constexpr (Op::kStoresFirst) {
      T* const first = b.row.written[Base::kFirst] + b.i + lane;
      V::store(kept[0][0], kept[1][0], first);
      for (int h = 0; h < 2; ++h) kept[h][0] = V::load(first, h);
    }
    for (int h = 0; h < 2 && kRound > 0; ++h) op.template step<1>(kept[h]);
  }

  C* buffer() { return Op::kRecomputes || !fits_ ? nullptr : buffer_.data(); }

  template <int kRound>
  void round(const Row& row) {
    constexpr bool kMaximum = Op::kMaximum && kRound == 0;
    const V nothing(kMaximum ? -static_cast<C>(HUGE_VAL) : C(0));
    Partial partial;
    for (auto& sum : partial.sum) std::fill(std::begin(sum), std::end(sum), nothing);
    const Op op = op_;  // a copy, which stores cannot change, so that it stays in registers
    C* const kept_before = buffer();
    const int64_t padded = padded_;
    const bool makes = kRound == 0 || kept_before == nullptr;
    // Inlined by word: GCC has left bodies like these out of line, a fifth slower.
    each_batch(row, {Op::kMaskFirst && makes, makes, false}, [&](const Batch& b) FD_INLINE_LAMBDA {
      each_pair([&](int lane) FD_INLINE_LAMBDA {
        V kept[2][kKept];
        recall<kRound>(op, b, lane, kept_before, padded, kept);
        for (int h = 0; h < 2; ++h) {
          const int slot = lane + h * kLanes;
          for (int k = 0; k < kKept && kept_before != nullptr && (kRound == 0 || Op::kKeepsSteps); ++k) {
            kept[h][k].store(kept_before + k * padded + b.at + slot);
          }
          V add[kSums];
          op.template term<kRound>(kept[h], read(b, Base::kWeight, lane, h, C(1)), add);
          for (int s = 0; s < kSums; ++s) {
            V& sum = partial.sum[s][slot / kLanes];
            if (__builtin_expect(b.valid != ~uint64_t{0}, 0)) {
              add[s] = select(lanes_of(b.valid, lane, h), add[s], nothing);
            }
            sum = kMaximum ? where_less(sum, add[s], add[s], sum) : sum + add[s];
          }
        }
      });
    });
    C total[kSums];
    for (int s = 0; s < kSums; ++s) total[s] = tree<kMaximum>(partial.sum[s]);
    op_.template finish<kRound>(total);
  }

  template <bool kMaximum>
  static C tree(const V (&sum)[kBatch / kLanes]) {
    alignas(64) C value[kBatch];
    for (int r = 0; r < kBatch / kLanes; r += 2) V::template store_as<T>(sum[r], sum[r + 1], value + r * kLanes);
    for (int half = kBatch / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        const C a = value[i], b = value[i + half];
        value[i] = kMaximum ? where_less(a, b, b, a) : a + b;
      }
    }
    return value[0];
  }

  static void put_in_order(std::vector<C>& column) {
    for (size_t i = 0; kInTurns<T> && i < column.size(); i += 2 * kLanes) {
      C* const pair = column.data() + i;
      V::template store_as<T>(V::load(pair, 0), V::load(pair, 1), pair);
    }
  }

  void results(const Row& row) {
    const Op op = op_;
    const C* const kept_before = buffer();
    const int64_t padded = padded_;
    C* column[Op::kColumns + 1] = {};
    for (int j = 0; j < Op::kColumns; ++j) column[j] = args_.column[j] ? columns_[j].data() : nullptr;
    const bool makes = kept_before == nullptr;
    each_batch(row, {!Op::kMaskFirst || makes, makes, true}, [&](const Batch& b) FD_INLINE_LAMBDA {
      each_pair([&](int lane) FD_INLINE_LAMBDA {
        V kept[2][kKept], y[2];
        recall<Op::kRounds>(op, b, lane, kept_before, padded, kept);
        for (int h = 0; h < 2; ++h) {
          const int slot = lane + h * kLanes;
          y[h] = op.output(kept[h], read(b, Base::kWeight, lane, h, C(1)), read(b, Base::kBias, lane, h, C(0)));
          for (int j = 0; j < Op::kColumns; ++j) {
            if (column[j] == nullptr) continue;
            C* const sum = column[j] + b.at + slot;
            if constexpr (Op::kColumns > 0) (V::load(sum) + op.column(j, kept[h])).store(sum);
          }
        }
        write(op, b, lane, y);
      });
    });
  }

  static FD_HOST_DEVICE void write(const Op& op, const Batch& b, int lane, const V (&y)[2]) {
    if (T* const output = b.row.written[Base::kOutput]) V::store(y[0], y[1], output + b.i + lane);
    T* const second = b.row.written[Base::kSecond];
    if (second == nullptr) return;
    const auto of = [&](int h) { return op.second(lanes_of(b.keep, lane, h), y[h]); };
    V::store(of(0), of(1), second + b.i + lane);
  }

  Op op_;
  const int64_t padded_;
  const bool fits_;
  std::vector<C> buffer_;
  std::vector<C> columns_[Op::kColumns > 0 ? Op::kColumns : 1];
};

template <class Isa>
struct RunRows {
  const RowArgs& args;
  int64_t begin, end;
  template <class Op, class T>
  void operator()() const {
    RowLoops<Isa, Op, T>(args).run(begin, end);
  }
};

template <class Isa>
void run_rows(RowOperation operation, DType dtype, const RowArgs& args, int64_t begin, int64_t end) {
  visit_row_operation(operation, dtype, RunRows<Isa>{args, begin, end});
}

}  // namespace fused_dropout

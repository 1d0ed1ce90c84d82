// Decisions about 64 elements, wherever their mask indices lie: what the loops ask for.
//
// The last ones made are remembered: rows shorter than what is made at once, and rows that share their mask, find
// theirs there.
#pragma once

#include <algorithm>

#include "elementwise.h"
#include "makers.h"
#include "pair.h"

namespace fused_dropout {

// Keep bits. A Batch is a word of them.
template <class MakerOfBits>
class KeepDecisions {
 public:
  using Maker = MakerOfBits;
  using Batch = uint64_t;
  static constexpr int64_t kAcross = kTileAcross;
  static constexpr int64_t kRemembered = kRememberedRow + 2 * Maker::kMade;  // elements: a row, and its ends

  explicit KeepDecisions(const ElementwiseArgs& args) : maker(args) {}
  explicit KeepDecisions(const Maker& maker) : maker(maker) {}

  const Maker maker;

  // Of the pair of registers of T that begins at `lane`.
  template <class V, class T>
  static FD_HOST_DEVICE Pair<typename V::Keep> lanes(const Batch& keep, int lane) {
    return {V::template keep_at<T>(keep, lane, 0), V::template keep_at<T>(keep, lane, 1)};
  }
  static FD_HOST_DEVICE bool drops_all(const Batch& keep) { return keep == 0; }
  // Calls body with the decisions of a batch about which there is only one: with a constant.
  template <class Body>
  static FD_HOST_DEVICE void with_equal(const Batch& keep, const Body& body) {
    keep != 0 ? body(~Batch{0}) : body(Batch{0});
  }

  // Adds the decisions about `count` elements, at least one, to those about `at` others.
  FD_HOST_DEVICE void put(Batch& keep, int at, uint64_t mask_index, uint64_t mask_stride, int count) {
    uint64_t bits = 0;
    if (mask_stride == 1) {
      bits = word(mask_index);
    } else if (mask_stride == 0) {
      bits = bit(mask_index) ? ~uint64_t{0} : 0;
    } else {
      for (int i = 0; i < count; ++i) {
        bits |= static_cast<uint64_t>(maker.one(mask_index + static_cast<uint64_t>(i) * mask_stride)) << i;
      }
    }
    copy(bits, 0, keep, at, count);
  }

  // The decisions about 64 elements.
  FD_HOST_DEVICE Batch whole(uint64_t mask_index, uint64_t mask_stride) {
    if (mask_stride == 1) return word(mask_index);
    Batch keep = 0;
    put(keep, 0, mask_index, mask_stride, kBatch);
    return keep;
  }

  // The decisions about 64 elements, each mask index deciding about 2^doublings neighbours.
  FD_HOST_DEVICE Batch repeated(uint64_t mask_index, int doublings) {
    uint64_t bits = word(mask_index);
    for (int i = 0; i < doublings; ++i) bits = doubled(static_cast<uint32_t>(bits));
    return bits;
  }

  // The decisions about 64 elements of rows of `size`, at least 2, each mask index deciding about one, and moves on.
  // Between two rows `left` may be 0.
  FD_HOST_DEVICE Batch of_rows(MaskPlace& mask, int64_t size) {
    const uint64_t rows = word(mask.index);
    uint64_t bits = -(rows & 1), changes = rows ^ rows >> 1;  // from one row to the next
    for (; mask.left < kBatch; mask.left += size, ++mask.index, changes >>= 1) bits ^= -(changes & 1) << mask.left;
    mask.left -= kBatch;
    return bits;
  }

  static FD_HOST_DEVICE void copy(const Batch& from, int from_at, Batch& to, int to_at, int count) {
    to |= (from >> from_at & ~uint64_t{0} >> (kBatch - count)) << to_at;
  }

  // A row of squares: the decisions about up to kTileAlong elements, from any mask index on.
  FD_HOST_DEVICE void put_along(Batch (&squares)[kSquares][kBatch], int64_t row, uint64_t mask_index, int64_t count) {
    static_assert(kTileAlong + kGroup <= kSquares * kBatch, "wherever in a group they begin");
    if (count <= kBatch) {  // of a narrow tile, whose rows may lie side by side
      squares[0][row] = word(mask_index);
      return;
    }
    // As many side by side as in a long loop, but for what does not divide a row.
    constexpr int kMany = Maker::kLinearWords >= 4 ? 4 : Maker::kLinearWords >= 2 ? 2 : 1;
    constexpr int kFew = Maker::kMade / kBatch;
    const int skip = static_cast<int>(mask_index % kGroup);
    uint64_t made[kSquares + 1] = {};
    if (kMany == kFew || skip + count > Maker::kMade) {
      make_along<kMany>(mask_index, skip + count, made);
    } else {
      make_along<kFew>(mask_index, skip + count, made);
    }
    for (int w = 0; w * kBatch < count; ++w) {
      squares[w][row] = made[w] >> skip | made[w + 1] << 1 << (kBatch - 1 - skip);
    }
  }

  // A 64 by 64 bit matrix: bit j of word i becomes bit i of word j (Warren, "Hacker's Delight", section 7-3), in six
  // steps whose order does not matter. Each exchanges bits of words whose numbers differ by 1, 2, 4, 8, 16 or 32; for
  // the first three the words are put 8, 16 and 32 apart, so that in all of them whole vectors of neighbours do the
  // same.
  static void transpose(Batch* m) {
    Batch spread[kBatch];
    spread_words(m, spread);
    exchange<4, 32>(spread, 0x0f0f0f0f0f0f0f0fu);
    exchange<2, 16>(spread, 0x3333333333333333u);
    exchange<1, 8>(spread, 0x5555555555555555u);
    spread_words(spread, m);
    exchange<32, 32>(m, 0x00000000ffffffffu);
    exchange<16, 16>(m, 0x0000ffff0000ffffu);
    exchange<8, 8>(m, 0x00ff00ff00ff00ffu);
  }

 private:
  // 64 valid bits from any mask index on.
  FD_HOST_DEVICE uint64_t word(uint64_t mask_index) {
    if (__builtin_expect(!remembers(mask_index), 0)) remember(mask_index);
    return bits_at(bits_, static_cast<int64_t>(mask_index - from_));
  }

  template <int N>
  FD_HOST_DEVICE void make_any(uint64_t group, uint64_t (&keep)[N]) const {
    if (__builtin_expect(same_high_half(group, N * kBatch), 1)) {
      maker.make(group, group >> 32, keep);
    } else {
      maker.make_one_by_one(group, keep);
    }
  }

  // At least `count` bits, from the group of a mask index on, N words at a time.
  template <int N>
  FD_HOST_DEVICE void make_along(uint64_t mask_index, int64_t count, uint64_t* made) const {
    static_assert(kSquares % N == 0, "no word behind the last one");
    for (int w = 0; w * kBatch < count; w += N) {
      uint64_t keep[N];
      make_any((mask_index + static_cast<uint64_t>(w) * kBatch) / kGroup, keep);  // the index wraps, not the group
      std::memcpy(made + w, keep, sizeof(keep));
    }
  }

  static void spread_words(const Batch* from, Batch* to) {
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 8; ++j) to[8 * i + j] = from[8 * j + i];
    }
  }

  // The upper bits of each word, in blocks of `kBits`, for the lower ones of the word that is `kApart` behind it.
  template <int kBits, int kApart>
  static void exchange(Batch* m, uint64_t lower) {
    for (int block = 0; block < kBatch; block += 2 * kApart) {
      for (int i = block; i < block + kApart; ++i) {
        const uint64_t changed = ((m[i] >> kBits) ^ m[i + kApart]) & lower;
        m[i] ^= changed << kBits;
        m[i + kApart] ^= changed;
      }
    }
  }

  FD_HOST_DEVICE bool bit(uint64_t mask_index) {
    if (__builtin_expect(mask_index - from_ >= made_, 0)) remember(mask_index);
    const uint64_t at = mask_index - from_;
    return bits_[at / kBatch] >> at % kBatch & 1;
  }

  FD_HOST_DEVICE bool remembers(uint64_t mask_index) const {
    const uint64_t at = mask_index - from_;  // large, too, where it lies before
    return at < made_ && made_ - at >= kBatch;
  }

  // Appends to what is remembered, or begins anew.
  __attribute__((noinline)) void remember(uint64_t mask_index) {
    const uint64_t at = mask_index - from_;
    if (at > made_ || at + kBatch + Maker::kMade > kRemembered) {
      from_ = mask_index & ~uint64_t{kGroup - 1};
      made_ = 0;
    }
    for (; !remembers(mask_index); made_ += Maker::kMade) {
      uint64_t keep[Maker::kMade / kBatch];
      make_any((from_ + made_) / kGroup, keep);
      std::memcpy(bits_ + made_ / kBatch, keep, sizeof(keep));
    }
  }

  uint64_t from_ = 0, made_ = 0;  // elements
  uint64_t bits_[kRemembered / kBatch + 1];
};

// Decisions that are no bits: nothing is dropped, and no batch is a constant.
struct NoBits {
  template <class Batch>
  static FD_HOST_DEVICE bool drops_all(const Batch&) {
    return false;
  }
  template <class Batch, class Body>
  static FD_HOST_DEVICE void with_equal(const Batch& decided, const Body& body) {
    body(decided);
  }
};

// Normal numbers. Only those made last are remembered: they take 32 times the room.
template <class Isa, class C>
class NormalDecisions : public NoBits {
 public:
  using Maker = NormalMaker<Isa, C>;
  using Batch = NormalBatch<C>;
  static constexpr int64_t kAcross = kBatch;  // of a tile, made at once
  static constexpr int64_t kRemembered = 0;

  explicit NormalDecisions(const ElementwiseArgs& args) : maker(args) {}

  const Maker maker;

  template <class V, class T>
  static FD_HOST_DEVICE Pair<V> lanes(const Batch& batch, int lane) {
    return {V::template load_as<T>(batch.z + lane, 0), V::template load_as<T>(batch.z + lane, 1)};
  }

  void put(Batch& batch, int at, uint64_t mask_index, uint64_t mask_stride, int count) {
    if (mask_stride == 0) {
      std::fill_n(batch.z + at, count, remembered(mask_index));
    } else {
      for (int i = 0; i < count; ++i) {
        const uint64_t index = mask_index + static_cast<uint64_t>(i) * mask_stride;
        batch.z[at + i] = mask_stride == 1 ? remembered(index) : maker.one(index);
      }
    }
  }

  Batch whole(uint64_t mask_index, uint64_t mask_stride) {
    Batch batch;
    put(batch, 0, mask_index, mask_stride, kBatch);
    return batch;
  }

  Batch repeated(uint64_t mask_index, int doublings) {
    Batch batch;
    for (int i = 0; i < kBatch; ++i) batch.z[i] = remembered(mask_index + static_cast<uint64_t>(i >> doublings));
    return batch;
  }

  Batch of_rows(MaskPlace& mask, int64_t size) {
    Batch batch;
    for (int i = 0; i < kBatch; ++i, --mask.left) {
      if (mask.left == 0) {
        mask.left = size;
        ++mask.index;
      }
      batch.z[i] = remembered(mask.index);
    }
    return batch;
  }

  static void copy(const Batch& from, int from_at, Batch& to, int to_at, int count) {
    std::copy_n(from.z + from_at, count, to.z + to_at);
  }

  void put_along(Batch (&squares)[kSquares][kBatch], int64_t row, uint64_t mask_index, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      squares[i / kBatch][row].z[i % kBatch] = remembered(mask_index + static_cast<uint64_t>(i));
    }
  }

  static void transpose(Batch* m) {
    for (int i = 0; i < kBatch; ++i) {
      for (int j = 0; j < i; ++j) std::swap(m[i].z[j], m[j].z[i]);
    }
  }

 private:
  C remembered(uint64_t mask_index) {
    if (!any_ || mask_index - from_ >= Maker::kMade) {
      any_ = true;
      from_ = mask_index & ~uint64_t{kGroup - 1};
      const uint64_t group = from_ / kGroup;
      if (same_high_half(group, Maker::kMade)) {
        maker.make(group, group >> 32, made_);
      } else {
        maker.make_one_by_one(group, made_);
      }
    }
    const uint64_t at = mask_index - from_;
    return made_[at / kBatch].z[at % kBatch];
  }

  bool any_ = false;
  uint64_t from_ = 0;
  Batch made_[Maker::kMade / kBatch];
};

// Nothing, for the pipelines that ask for nothing.
template <class Isa>
class NoDecisions : public NoBits {
 public:
  struct Batch {};
  struct Maker {
    static constexpr int kLinearWords = Isa::kWords, kMade = Isa::kWords * kBatch;
    FD_HOST_DEVICE void make(uint64_t, uint64_t, Batch (&)[Isa::kWords]) const {}
  };
  static constexpr int64_t kAcross = kTileAcross, kRemembered = 0;

  explicit NoDecisions(const ElementwiseArgs&) {}

  const Maker maker{};

  template <class V, class T>
  static FD_HOST_DEVICE bool lanes(const Batch&, int) {
    return true;
  }
  FD_HOST_DEVICE void put(Batch&, int, uint64_t, uint64_t, int) {}
  FD_HOST_DEVICE Batch whole(uint64_t, uint64_t) { return {}; }
  FD_HOST_DEVICE Batch repeated(uint64_t, int) { return {}; }
  FD_HOST_DEVICE Batch of_rows(MaskPlace&, int64_t) { return {}; }
  static FD_HOST_DEVICE void copy(const Batch&, int, Batch&, int, int) {}
  FD_HOST_DEVICE void put_along(Batch (&)[kSquares][kBatch], int64_t, uint64_t, int64_t) {}
  static void transpose(Batch*) {}
};

template <class Isa, class C, Noise>
struct DecisionsOf {
  using type = KeepDecisions<KeepMaker<Isa>>;
};
template <class Isa, class C>
struct DecisionsOf<Isa, C, Noise::kStored> {
  using type = KeepDecisions<StoredMaker<Isa>>;
};
template <class Isa, class C>
struct DecisionsOf<Isa, C, Noise::kNone> {
  using type = NoDecisions<Isa>;
};
template <class Isa, class C>
struct DecisionsOf<Isa, C, Noise::kNormal> {
  using type = NormalDecisions<Isa, C>;
};

}  // namespace fused_dropout

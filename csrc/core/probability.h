// p, and everything that follows from it. Nothing else in the project subtracts from 1 or divides by what is left.
//
// p is the probability of dropping. It is honoured as a threshold on 32-bit words: an element is dropped where its word
// is below `drop_below` = round_half_even(p * 2^32), so p is exact to 2^-33, and every factor is computed from the
// probability that is honoured, so E[y] = x to the rounding of the factor.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace fused_dropout {

constexpr double kWords = 4294967296.0;  // 2^32, the number of values a word can take

// p outside [0, 1] or nan counts as 1 (a p that lives on the device cannot raise); the host refuses it beforehand.
FD_HOST_DEVICE constexpr uint64_t drop_below(double p) {
  if (!(p >= 0.0 && p <= 1.0)) return uint64_t{1} << 32;
  const double exact = p * kWords;  // a power of two: no rounding
  const uint64_t floor = static_cast<uint64_t>(exact);
  const double rest = exact - static_cast<double>(floor);
  return floor + ((rest > 0.5 || (rest == 0.5 && (floor & 1))) ? 1 : 0);
}

static_assert(drop_below(0.5) == 0x80000000u && drop_below(1.0) == 0x100000000u, "exact where p is a dyadic fraction");
static_assert(drop_below(0x1p-33) == 0 && drop_below(3 * 0x1p-33) == 2, "halves round to even");
static_assert(drop_below(-1.0) == 0x100000000u, "out of range counts as 1");

// What a kept element is multiplied by.
enum class Gain : int64_t {
  kUpscale = 0,  // 1 / (1 - p): inverted dropout, "upscale_in_train"
  kOne = 1,      // 1: the bare mask, "downscale_in_infer" in training
  kAlpha = 2,    // the `a` of alpha dropout, see AlphaAffine
};

// The saturation value of SELU, -scale * alpha (Klambauer et al., "Self-Normalizing Neural Networks", 2017).
constexpr double kAlphaPrime = -1.7580993408473766;

struct Probability {
  uint64_t drop_below;  // 33 bits: 2^32 where p rounds to 1

  FD_HOST_DEVICE static constexpr Probability of(double p) { return {fused_dropout::drop_below(p)}; }
  FD_HOST_DEVICE constexpr double dropped() const { return static_cast<double>(drop_below) / kWords; }
  FD_HOST_DEVICE constexpr double kept() const { return (kWords - static_cast<double>(drop_below)) / kWords; }
  FD_HOST_DEVICE constexpr bool keeps_none() const { return drop_below >> 32; }
  FD_HOST_DEVICE constexpr double scale() const { return keeps_none() ? 0.0 : 1.0 / kept(); }

  // The standard deviation of Gaussian dropout's factor: that of Bernoulli dropout's, scaled by 1 / (1 - p).
  FD_HOST_DEVICE double stddev() const { return keeps_none() ? 0.0 : std::sqrt(dropped() / kept()); }

  // The factor of kept elements; 0 where nothing is kept.
  FD_HOST_DEVICE double gain(Gain which) const {
    switch (which) {
      case Gain::kOne:
        return 1.0;
      case Gain::kAlpha:
        return keeps_none() ? 0.0 : 1.0 / std::sqrt(kept() * (1.0 + dropped() * kAlphaPrime * kAlphaPrime));
      default:
        return scale();
    }
  }
};

// Alpha dropout keeps mean 0 and variance 1: a * (x where kept, alpha' where dropped) + b, b = -a * p * alpha'.
struct AlphaAffine {
  double a, kept_shift, dropped_value;

  FD_HOST_DEVICE static AlphaAffine of(Probability p) {
    const double a = p.gain(Gain::kAlpha);
    return {a, -a * p.dropped() * kAlphaPrime, a * p.kept() * kAlphaPrime};
  }
};

}  // namespace fused_dropout

// The portable loops' a * b + c, which has no instruction on old machines, beside the C library's.
#include <cmath>
#include <random>

#include "cpu/simd_portable.h"

using namespace fused_dropout;

namespace {

// Of any exponent, near 1, below the normal numbers, or of few bits, whose products and sums lie between two numbers.
float number(std::mt19937_64& random) {
  uint32_t bits = static_cast<uint32_t>(random());
  switch (random() % 4) {
    case 0:
      bits = (bits & 0x807fffffu) | static_cast<uint32_t>(100 + random() % 60) << 23;
      break;
    case 1:
      bits &= 0x80ffffffu;
      break;
    case 2:
      bits &= 0xfffff000u;
      break;
  }
  return bit_cast<float>(bits);
}

// A nan is as good as another.
bool same(float x, float y) { return bit_cast<uint32_t>(x) == bit_cast<uint32_t>(y) || (x != x && y != y); }

}  // namespace

// How many of 8 `count` sums have other bits. Half of them add to another sum: GCC 12 was seen to leave out the
// rounding to float between two that were vectors made of single conversions.
extern "C" int64_t differing(uint64_t seed, int64_t count) {
  std::mt19937_64 random(seed);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    Portable::Floats a, b, c;
    for (int k = 0; k < 4; ++k) {
      a[k] = number(random), b[k] = number(random), c[k] = number(random);
      if (random() % 4 == 0) c[k] = a[k] * b[k] * -static_cast<float>(1 << random() % 24);  // a part of it cancels
    }
    const Portable::Floats once = Portable::multiply_add(a, b, c), twice = Portable::multiply_add(a, once, b);
    for (int k = 0; k < 4; ++k) {
      const float right = std::fma(a[k], b[k], c[k]);
      wrong += !same(once[k], right) + !same(twice[k], std::fma(a[k], right, b[k]));
    }
  }
  return wrong;
}

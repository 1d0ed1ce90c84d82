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

}  // namespace

// How many of 4 `count` sums have other bits; a nan is as good as another.
extern "C" int64_t differing(uint64_t seed, int64_t count) {
  std::mt19937_64 random(seed);
  int64_t wrong = 0;
  for (int64_t i = 0; i < count; ++i) {
    Portable::Floats a, b, c;
    for (int k = 0; k < 4; ++k) {
      a[k] = number(random), b[k] = number(random), c[k] = number(random);
      if (random() % 4 == 0) c[k] = a[k] * b[k] * -static_cast<float>(1 << random() % 24);  // a part of it cancels
    }
    const Portable::Floats sums = Portable::multiply_add(a, b, c);
    for (int k = 0; k < 4; ++k) {
      const float sum = sums[k], right = std::fma(a[k], b[k], c[k]);
      wrong += bit_cast<uint32_t>(sum) != bit_cast<uint32_t>(right) && (sum == sum || right == right);
    }
  }
  return wrong;
}

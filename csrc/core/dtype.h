// The element types, as bits: storage only. A kernel computes in Compute<T> and rounds once, to nearest even.
//
// The conversions below are the portable ones; csrc/cpu/simd*.h and csrc/cuda/vector.cuh use instructions where the
// machine has them, with the same results (the payload of a NaN excepted).
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace fused_dropout {

enum class DType { kFloat16, kBFloat16, kFloat32, kFloat64 };

constexpr int bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class To, class From>
FD_HOST_DEVICE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps their number");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

FD_HOST_DEVICE float to_compute(float x) { return x; }
FD_HOST_DEVICE double to_compute(double x) { return x; }
FD_HOST_DEVICE float to_compute(BFloat16 x) { return bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

FD_HOST_DEVICE float to_compute(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  // Shifted into place a half is a float that is 2^112 too small, subnormals included; infinity and nan need the rest.
  const float scaled = bit_cast<float>(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0;
  return bit_cast<float>(bit_cast<uint32_t>(scaled) | special | sign);
}

FD_HOST_DEVICE void from_compute(float x, float& to) { to = x; }
FD_HOST_DEVICE void from_compute(double x, double& to) { to = x; }
FD_HOST_DEVICE void from_compute(float x, uint8_t& to) { to = x != 0.0f; }

FD_HOST_DEVICE void from_compute(float x, BFloat16& to) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? (u >> 16) | 0x40u : rounded);
}

FD_HOST_DEVICE void from_compute(float x, Half& to) {
  const uint32_t u = bit_cast<uint32_t>(x);
  const uint32_t sign = (u >> 16) & 0x8000u;
  const uint32_t magnitude = u & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520, halfway above the largest half, rounds to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 lets the float adder round to a multiple of 2^-24
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  }
  to.bits = static_cast<uint16_t>(half | sign);
}

}  // namespace fused_dropout

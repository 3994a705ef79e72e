// float32 vectors of LANES elements, and the two functions that the scan needs.
//
// The vectors are GCC's; the compiler makes of them what the instruction set of the surrounding
// function has (see the clones in operators.cpp). Do not compile with -ffast-math: rounding by
// adding a large number would be optimized away.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace lanes {

constexpr int LANES = 8;
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE Floats all(float value) { return value - Floats{}; }

template <class Vector>
ALWAYS_INLINE Vector load(const void* from) {
  Vector vector;
  std::memcpy(&vector, from, sizeof vector);
  return vector;
}

template <class Vector>
ALWAYS_INLINE void store(void* to, Vector vector) {
  std::memcpy(to, &vector, sizeof vector);
}

// The larger and the smaller of a bound and a value; a NaN stays one. The compiler makes two
// instructions of the comparison.
ALWAYS_INLINE Floats at_least(float bound, Floats value) {
#if defined(__AVX__)
  return (Floats)_mm256_max_ps((__m256)all(bound), (__m256)value);
#else
  return value < all(bound) ? all(bound) : value;
#endif
}
ALWAYS_INLINE Floats at_most(float bound, Floats value) {
#if defined(__AVX__)
  return (Floats)_mm256_min_ps((__m256)all(bound), (__m256)value);
#else
  return value > all(bound) ? all(bound) : value;
#endif
}

// Adding 1.5 * 2^23 leaves no room for a fraction: the sum is rounded to an integer, half to even,
// which is then in the low bits.
constexpr float kRounder = 12582912.0f;

// 2^t, t clamped to -126 .. 126. With k the integer nearest to t, 2^(t - k) is 1 + f p(f), where
// p is the polynomial of degree 5 of least relative error of the result on -1/2 .. 1/2, 4.4e-9,
// found by weighted least squares; k goes into the exponent. Near t = 0, where a scan remembers
// longest, the error falls with t.
ALWAYS_INLINE Floats exp2(Floats t) {
  t = at_most(126.0f, at_least(-126.0f, t));
  const Floats shifted = t + all(kRounder);
  const Floats f = t - (shifted - all(kRounder));
  Floats p = all(1.540351235e-04f);
  p = p * f + all(1.339073548e-03f);
  p = p * f + all(9.618237495e-03f);
  p = p * f + all(5.550357434e-02f);
  p = p * f + all(2.402264979e-01f);
  p = p * f + all(6.931471879e-01f);
  p = p * f + all(1.0f);
  return (Floats)((Ints)p + ((Ints)shifted << 23));
}

// The sum of each of LANES vectors, in the lane of its number.
ALWAYS_INLINE Floats sum_each(const Floats* rows) {
#if defined(__AVX__)
  const auto row = [&](int i) { return (__m256)rows[i]; };
  const __m256 first = _mm256_hadd_ps(_mm256_hadd_ps(row(0), row(1)),
                                      _mm256_hadd_ps(row(2), row(3)));
  const __m256 last = _mm256_hadd_ps(_mm256_hadd_ps(row(4), row(5)),
                                     _mm256_hadd_ps(row(6), row(7)));
  // each half holds sums of half a row
  return (Floats)_mm256_add_ps(_mm256_permute2f128_ps(first, last, 0x21),
                               _mm256_blend_ps(first, last, 0xF0));
#else
  Floats sums{};
  for (int row = 0; row < LANES; ++row) {
    for (int i = 0; i < LANES; ++i) sums[row] += rows[row][i];
  }
  return sums;
#endif
}

constexpr float kLog2E = 1.44269504f;

// log(1 + exp(x)) = max(x, 0) + log(1 + z) with z = exp(-|x|) in 0 .. 1. log(1 + z) is
// 2 atanh(q) with q = z / (2 + z) in 0 .. 1/3, and atanh(q) / q a polynomial in q^2 of relative
// error 4e-9.
ALWAYS_INLINE Floats softplus(Floats x) {
  const Floats positive = at_least(0.0f, x), magnitude = positive + at_least(0.0f, -x);
  const Floats z = exp2(magnitude * all(-kLog2E));
  const Floats q = z / (all(2.0f) + z);
  const Floats q2 = q * q;
  Floats p = all(1.408916720e-01f);
  p = p * q2 + all(1.398030143e-01f);
  p = p * q2 + all(2.001245514e-01f);
  p = p * q2 + all(3.333315734e-01f);
  p = p * q2 + all(1.0f);
  return positive + all(2.0f) * q * p;
}

}  // namespace lanes

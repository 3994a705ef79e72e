// Sums of products of codes, in 32 bits, by the widest instructions that there are at compile time.
//
// A vector has LANES output channels. `dot` adds to each lane the products of TOGETHER neighbouring
// input channels, which are the same for all lanes, with the lane's own weights. Nothing saturates:
// the instructions of processors without VNNI that take bytes would, so there both are widened.
#pragma once

#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "vector_math.hpp"

namespace dots {

#if defined(__AVX512VNNI__)
constexpr int LANES = 16, TOGETHER = 4;
typedef uint8_t Code;
typedef int8_t Weight;
#elif defined(__AVX512BW__)
constexpr int LANES = 16, TOGETHER = 2;
typedef int16_t Code;
typedef int16_t Weight;
#elif defined(__AVX2__)
constexpr int LANES = 8, TOGETHER = 2;
typedef int16_t Code;
typedef int16_t Weight;
#elif defined(__SSE2__)
constexpr int LANES = 4, TOGETHER = 2;
typedef int16_t Code;
typedef int16_t Weight;
#else
constexpr int LANES = 8, TOGETHER = 1;
typedef int32_t Code;
typedef int32_t Weight;
#endif

static_assert(TOGETHER * sizeof(Code) == 4, "the codes of a product are one word");

typedef int32_t Sums __attribute__((vector_size(4 * LANES)));
typedef float SumsInFloat __attribute__((vector_size(4 * LANES)));

ALWAYS_INLINE Sums dot(Sums sums, int32_t codes, Sums weights) {
#if defined(__AVX512VNNI__)
  return (Sums)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(codes), (__m512i)weights);
#elif defined(__AVX512BW__)
  return sums + (Sums)_mm512_madd_epi16(_mm512_set1_epi32(codes), (__m512i)weights);
#elif defined(__AVX2__)
  return sums + (Sums)_mm256_madd_epi16(_mm256_set1_epi32(codes), (__m256i)weights);
#elif defined(__SSE2__)
  return sums + (Sums)_mm_madd_epi16(_mm_set1_epi32(codes), (__m128i)weights);
#else
  return sums + codes * weights;
#endif
}

}  // namespace dots

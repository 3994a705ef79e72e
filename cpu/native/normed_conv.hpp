// A convolution of codes with InstanceNorm behind it and codes again: what is shared by the operator
// and by the kernels of each instruction set.
//
// What the convolution sums are whole numbers, so that neither a rounding between it and the norm
// nor its bias, which the norm's mean takes away again, is needed:
//
//   sums = sum over taps and channels of (x - x_zero) W
//   y = leaky((sums - mean) factor + shift) / y_scale + y_zero, rounded half to even and saturated
//
// with the mean and the variance of the map of each channel, and x_scale W_scale, the norm's scale
// and its epsilon in the factor. Maps are (batch, height, width, channels).
#pragma once

#include <cstdint>
#include <vector>

namespace normed {

constexpr int kRowsOfChunk = 8;

struct Geometry {
  int64_t height, width, channels;              // of x
  int64_t out_height, out_width, out_channels;  // of y
  int64_t kernel_height, kernel_width, stride_height, stride_width, pad_top, pad_left;
  bool depthwise;

  int64_t padded_height() const { return (out_height - 1) * stride_height + kernel_height; }
  int64_t padded_width() const { return (out_width - 1) * stride_width + kernel_width; }
  int64_t chunks() const { return (out_height + kRowsOfChunk - 1) / kRowsOfChunk; }
};

// Weights as a kernel reads them, and how many channels it takes together.
struct Packed {
  std::vector<int8_t> from;        // the codes that were packed, (out, in / groups, height, width)
  std::vector<int32_t> weights;    // dot products' operands; float32 of a depthwise convolution
  std::vector<int32_t> offsets;    // -x_zero times the sum of each channel's weights
  int64_t in_channels, out_channels, blocks;  // with padding; blocks that are tasks of their own
};

// One image. Everything between the phases is in memory that the operator holds.
struct Image {
  const Geometry* geometry;
  const Packed* packed;
  const uint8_t* x;
  uint8_t* y;
  int x_zero, y_zero;
  float slope;
  int32_t* padded;        // x with its border
  float* sums;            // (out_height, out_width, padded out_channels)
  double* totals;         // (chunks, 2, padded out_channels): sums and sums of squares
  const float *factor, *shift;  // in units of y's codes
};

// Kernels of an instruction set. The phases follow one another; each is split into tasks.
struct Kernels {
  Packed (*pack)(const Geometry&, const int8_t* weights, int x_zero);
  int64_t (*padded_words)(const Geometry&, const Packed&);  // how many int32 `padded` has
  void (*pad)(const Image&, int64_t chunk);                 // one task for each of chunks()
  void (*convolve)(const Image&, int64_t task);             // chunks() times packed->blocks
  void (*normalize)(const Image&, int64_t chunk);           // chunks()
};

Kernels kernels_default();
#if defined(__x86_64__)
Kernels kernels_haswell();
Kernels kernels_skylake_avx512();
Kernels kernels_cascadelake();
#endif

// The kernels for the processor that this runs on; with -DNORMED_KERNELS=... those, untried.
inline Kernels choose_kernels() {
#if defined(NORMED_KERNELS)
  return NORMED_KERNELS();
#elif defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    return __builtin_cpu_supports("avx512vnni") ? kernels_cascadelake() : kernels_skylake_avx512();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_haswell();
  return kernels_default();
#else
  return kernels_default();
#endif
}

}  // namespace normed

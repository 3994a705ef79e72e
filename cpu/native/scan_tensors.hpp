// What a scan is given, and the kernels that are compiled for each instruction set.
#pragma once

#include <cstdint>

namespace scan {

constexpr int kChannelsOfBlock = 8;
constexpr int kMostStates = 256;

// Sizes and constants of a scan: x, dt, y (batch, tokens, channels), B and C (batch, tokens,
// states), A (channels, states), D (channels,).
struct Sizes {
  int64_t batch, tokens, channels, states;
  const float *A, *D;

  int64_t blocks() const { return (channels + kChannelsOfBlock - 1) / kChannelsOfBlock; }
};

// A quantizer: value = (code - zero) * scale.
struct Grid {
  float scale;
  int zero;

  float value(int code) const { return static_cast<float>(code - zero) * scale; }
};

// Inputs and output in float32.
struct FloatTensors {
  const float *x, *dt, *B, *C;
  float* y;
};

// The same in UINT8 codes.
struct CodeTensors {
  const uint8_t *x, *dt, *B, *C;
  uint8_t* y;
  float delta[256];  // softplus of the value of each code of dt
  Grid x_grid, b_grid, c_grid, y_grid;
};

// Compute block `block` of sizes.batch * sizes.blocks().
struct Kernels {
  void (*floats)(const Sizes&, const FloatTensors&, int64_t block);
  void (*codes)(const Sizes&, const CodeTensors&, int64_t block);
};

// scan_kernels.cpp is compiled once for each of these.
Kernels kernels_default();
#if defined(__x86_64__)
Kernels kernels_haswell();
Kernels kernels_skylake_avx512();
#endif

// The kernels for the processor that this runs on; with -DKERNELS=kernels_haswell those, untried.
inline Kernels choose_kernels() {
#if defined(KERNELS)
  return KERNELS();
#elif defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq")) {
    return kernels_skylake_avx512();
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return kernels_haswell();
  return kernels_default();
#else
  return kernels_default();
#endif
}

}  // namespace scan

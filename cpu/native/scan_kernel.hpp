// The selective scan of one block of LANES channels, over all tokens:
//
//   delta = softplus(dt);  h = exp(delta A) h + delta x B;  y = sum over states of C h, plus D x
//
// A vector holds one number of LANES neighbouring channels. The states stay in registers or in the
// first-level cache, and each input is read once: what is left is the arithmetic, one exponential
// for each token, channel and state.
//
// Two sources of x, dt, B and C: float32, or UINT8 codes with a scale and a zero point each.
#pragma once

#include <memory>

#include "scan_tensors.hpp"
#include "vector_math.hpp"

namespace scan {
namespace {

using lanes::all;
using lanes::Bytes;
using lanes::Floats;
using lanes::Ints;
using lanes::LANES;

static_assert(LANES == kChannelsOfBlock, "a block is one vector");

ALWAYS_INLINE Floats from_bytes(const uint8_t* from, int width) {
  Floats values{};
  if (width == LANES) {
    // through integers: straight from bytes the compiler converts one by one
    return __builtin_convertvector(__builtin_convertvector(lanes::load<Bytes>(from), Ints), Floats);
  }
  for (int i = 0; i < width; ++i) values[i] = from[i];
  return values;
}

ALWAYS_INLINE Floats read(const float* from, int width) {
  if (width == LANES) return lanes::load<Floats>(from);
  Floats values{};
  for (int i = 0; i < width; ++i) values[i] = from[i];
  return values;
}

ALWAYS_INLINE Floats x_of(const FloatTensors& t, int64_t at, int width) {
  return read(t.x + at, width);
}
ALWAYS_INLINE Floats on_grid(const uint8_t* codes, const Grid& grid, int width = LANES) {
  return (from_bytes(codes, width) - all(static_cast<float>(grid.zero))) * all(grid.scale);
}
ALWAYS_INLINE Floats x_of(const CodeTensors& t, int64_t at, int width) {
  return on_grid(t.x + at, t.x_grid, width);
}

ALWAYS_INLINE Floats delta_of(const FloatTensors& t, int64_t at, int width) {
  return lanes::softplus(read(t.dt + at, width));
}
ALWAYS_INLINE Floats delta_of(const CodeTensors& t, int64_t at, int width) {
  Floats values{};
  for (int i = 0; i < LANES; ++i) {
    if (i < width) values[i] = t.delta[t.dt[at + i]];
  }
  return values;
}

ALWAYS_INLINE float b_of(const FloatTensors& t, int64_t at) { return t.B[at]; }
ALWAYS_INLINE float b_of(const CodeTensors& t, int64_t at) { return t.b_grid.value(t.B[at]); }
ALWAYS_INLINE float c_of(const FloatTensors& t, int64_t at) { return t.C[at]; }
ALWAYS_INLINE float c_of(const CodeTensors& t, int64_t at) { return t.c_grid.value(t.C[at]); }

ALWAYS_INLINE void write(const FloatTensors& t, int64_t at, int width, Floats y) {
  if (width == LANES) {
    lanes::store(t.y + at, y);
    return;
  }
  for (int i = 0; i < width; ++i) t.y[at + i] = y[i];
}
// Rounds half to even and saturates, as QuantizeLinear does. The division is its own, too: a
// product with the reciprocal would round some codes to the other side.
ALWAYS_INLINE void write(const CodeTensors& t, int64_t at, int width, Floats y) {
  Floats code = y / all(t.y_grid.scale);
  code = lanes::at_most(1000.0f, lanes::at_least(-1000.0f, code));
  code = (code + all(lanes::kRounder)) - all(lanes::kRounder);
  code += all(static_cast<float>(t.y_grid.zero));
  code = lanes::at_most(255.0f, lanes::at_least(0.0f, code));
  const Bytes bytes = __builtin_convertvector(__builtin_convertvector(code, Ints), Bytes);
  if (width == LANES) {
    lanes::store(t.y + at, bytes);
    return;
  }
  for (int i = 0; i < width; ++i) t.y[at + i] = bytes[i];
}

// One block of channels. `STATES` is the number of states where it is known at compile time, so
// that they stay in registers; 0 takes it from `sizes`, up to kMostStates.
template <int STATES, class Tensors>
ALWAYS_INLINE void run_block(const Sizes& sizes, const Tensors& tensors, int64_t batch,
                             int64_t first, int width) {
  const int states = STATES ? STATES : static_cast<int>(sizes.states);
  Floats A[STATES ? STATES : kMostStates], h[STATES ? STATES : kMostStates], D{};
  for (int n = 0; n < states; ++n) {
    A[n] = h[n] = Floats{};
    for (int i = 0; i < width; ++i) {
      A[n][i] = sizes.A[(first + i) * states + n] * lanes::kLog2E;
    }
  }
  for (int i = 0; i < width; ++i) D[i] = sizes.D[first + i];
  int64_t at = batch * sizes.tokens * sizes.channels + first;
  int64_t state_at = batch * sizes.tokens * states;
  for (int64_t token = 0; token < sizes.tokens; ++token) {
    const Floats x = x_of(tensors, at, width);
    const Floats delta = delta_of(tensors, at, width);
    const Floats u = delta * x;
    Floats y{};
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) {
      h[n] = lanes::exp2(delta * A[n]) * h[n] + u * all(b_of(tensors, state_at + n));
      y = y + h[n] * all(c_of(tensors, state_at + n));
    }
    write(tensors, at, width, y + D * x);
    at += sizes.channels;
    state_at += states;
  }
}

// The same for codes of dt, of which there are 256, and so as many decays for each channel and
// state: a table takes the place of the exponentials. A vector holds LANES states of one channel;
// the products with C of LANES channels are summed together.
constexpr int64_t kTokensForTable = 512;  // with fewer, making the table takes longer than it saves

template <int STATES>
ALWAYS_INLINE void run_block_by_table(const Sizes& sizes, const CodeTensors& tensors,
                                      int64_t batch, int64_t first, float* decays) {
  constexpr int kVectors = STATES / LANES;
  Floats h[LANES][kVectors], D{};
  for (int i = 0; i < LANES; ++i) {
    D[i] = sizes.D[first + i];
    for (int v = 0; v < kVectors; ++v) {
      h[i][v] = Floats{};
      const Floats A = lanes::load<Floats>(sizes.A + (first + i) * STATES + v * LANES);
      for (int code = 0; code < 256; ++code) {
        lanes::store(decays + (i * 256 + code) * STATES + v * LANES,
                     lanes::exp2(all(tensors.delta[code] * lanes::kLog2E) * A));
      }
    }
  }
  int64_t at = batch * sizes.tokens * sizes.channels + first;
  int64_t state_at = batch * sizes.tokens * STATES;
  for (int64_t token = 0; token < sizes.tokens; ++token) {
    const uint8_t* codes = tensors.dt + at;
    const Floats x = x_of(tensors, at, LANES);
    float xs[LANES];
    lanes::store(xs, x);
    Floats B[kVectors], C[kVectors], products[LANES];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      B[v] = on_grid(tensors.B + state_at + v * LANES, tensors.b_grid);
      C[v] = on_grid(tensors.C + state_at + v * LANES, tensors.c_grid);
    }
#pragma GCC unroll 8
    for (int i = 0; i < LANES; ++i) {
      const float* decay = decays + (i * 256 + codes[i]) * STATES;
      const Floats u = all(tensors.delta[codes[i]]) * all(xs[i]);
      products[i] = Floats{};
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        h[i][v] = lanes::load<Floats>(decay + v * LANES) * h[i][v] + u * B[v];
        products[i] = products[i] + h[i][v] * C[v];
      }
    }
    write(tensors, at, LANES, lanes::sum_each(products) + D * x);
    at += sizes.channels;
    state_at += STATES;
  }
}

ALWAYS_INLINE bool by_table(const Sizes&, const FloatTensors&, int64_t, int64_t) { return false; }
ALWAYS_INLINE bool by_table(const Sizes& sizes, const CodeTensors& tensors, int64_t batch,
                            int64_t first) {
  if (sizes.tokens < kTokensForTable || (sizes.states != 8 && sizes.states != 16)) return false;
  const std::unique_ptr<float[]> decays(new float[LANES * 256 * sizes.states]);
  if (sizes.states == 8) {
    run_block_by_table<8>(sizes, tensors, batch, first, decays.get());
  } else {
    run_block_by_table<16>(sizes, tensors, batch, first, decays.get());
  }
  return true;
}

template <class Tensors>
ALWAYS_INLINE void run(const Sizes& sizes, const Tensors& tensors, int64_t block) {
  const int64_t first = block % sizes.blocks() * LANES, batch = block / sizes.blocks();
  const bool whole = first + LANES <= sizes.channels;
  if (whole && by_table(sizes, tensors, batch, first)) return;
  if (whole && sizes.states == 8) {
    run_block<8>(sizes, tensors, batch, first, LANES);
  } else if (whole && sizes.states == 16) {
    run_block<16>(sizes, tensors, batch, first, LANES);
  } else {
    run_block<0>(sizes, tensors, batch, first,
                 whole ? LANES : static_cast<int>(sizes.channels - first));
  }
}

}  // namespace
}  // namespace scan

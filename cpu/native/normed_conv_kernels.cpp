// The kernels of normed_conv.hpp for one instruction set: compiled with -DINSTRUCTIONS=name and the
// compiler's -march of it.
#include <algorithm>

#include "dot_products.hpp"
#include "normed_conv.hpp"

#define JOIN(a, b) a##b
#define NAMED(prefix, name) JOIN(prefix, name)

namespace normed {
namespace {

using dots::Code;
using dots::Sums;
using dots::SumsInFloat;
using dots::TOGETHER;
using dots::Weight;
using lanes::all;
using lanes::Bytes;
using lanes::Floats;
using lanes::Ints;

typedef double Doubles __attribute__((vector_size(8 * lanes::LANES)));

constexpr int kLanes = dots::LANES;
constexpr int kBlocks = 2;                       // vectors of output channels that are summed at once
constexpr int kPixels = kLanes == 16 ? 8 : 4;    // and pixels of a row: sums fill the registers
constexpr int kDepthwisePixels = 4;

int64_t up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

Packed pack_depthwise(const Geometry& g, const int8_t* weights, Packed packed) {
  const int64_t taps = g.kernel_height * g.kernel_width;
  packed.in_channels = packed.out_channels = up(g.channels, lanes::LANES);
  packed.blocks = 1;
  std::vector<float> values(static_cast<std::size_t>(taps * packed.in_channels));
  for (int64_t c = 0; c < g.channels; ++c) {
    for (int64_t tap = 0; tap < taps; ++tap) {
      values[tap * packed.in_channels + c] = weights[c * taps + tap];
    }
  }
  packed.weights.resize(values.size());
  std::memcpy(packed.weights.data(), values.data(), 4 * values.size());
  return packed;
}

// Weights by block of kBlocks vectors (the last may have one): (height, width, in / TOGETHER,
// channels of the block, TOGETHER).
Packed pack(const Geometry& g, const int8_t* weights, int x_zero) {
  const int64_t taps = g.kernel_height * g.kernel_width;
  const int64_t inside = g.depthwise ? 1 : g.channels;
  Packed packed;
  packed.from.assign(weights, weights + g.out_channels * inside * taps);
  if (g.depthwise) return pack_depthwise(g, weights, packed);
  packed.in_channels = up(g.channels, TOGETHER);
  packed.out_channels = up(g.out_channels, kLanes);
  const int64_t vectors = packed.out_channels / kLanes;
  packed.blocks = (vectors + kBlocks - 1) / kBlocks;
  packed.offsets.assign(packed.out_channels, 0);
  std::vector<Weight> values;
  values.reserve(taps * packed.in_channels * packed.out_channels);
  for (int64_t block = 0; block < packed.blocks; ++block) {
    const int64_t first = block * kBlocks * kLanes;
    const int64_t end = std::min(first + kBlocks * kLanes, packed.out_channels);
    for (int64_t tap = 0; tap < taps; ++tap) {
      for (int64_t in = 0; in < packed.in_channels; in += TOGETHER) {
        for (int64_t out = first; out < end; ++out) {
          for (int64_t i = in; i < in + TOGETHER; ++i) {
            const bool real = out < g.out_channels && i < g.channels;
            const int weight = real ? weights[(out * g.channels + i) * taps + tap] : 0;
            values.push_back(static_cast<Weight>(weight));
            packed.offsets[out] -= x_zero * weight;
          }
        }
      }
    }
  }
  packed.weights.resize((values.size() * sizeof(Weight) + 3) / 4);
  std::memcpy(packed.weights.data(), values.data(), values.size() * sizeof(Weight));
  return packed;
}

int64_t padded_words(const Geometry& g, const Packed& packed) {
  const int64_t pixels = g.padded_height() * g.padded_width();
  return pixels * packed.in_channels / (g.depthwise ? 1 : TOGETHER);
}

template <class T>
void pad_row(const Image& image, int64_t row, T border, T shift) {
  const Geometry& g = *image.geometry;
  const int64_t channels = image.packed->in_channels, width = g.padded_width();
  T* to = reinterpret_cast<T*>(image.padded) + row * width * channels;
  const int64_t y = row - g.pad_top;
  if (y < 0 || y >= g.height) {
    std::fill(to, to + width * channels, border);
    return;
  }
  const uint8_t* from = image.x + y * g.width * g.channels;
  for (int64_t column = 0; column < width; ++column, to += channels) {
    const int64_t x = column - g.pad_left;
    if (x < 0 || x >= g.width) {
      std::fill(to, to + channels, border);
    } else if (channels == g.channels) {  // all columns that are inside, at once
      const int64_t count = std::min(g.width - x, width - column);
      for (int64_t i = 0; i < count * channels; ++i) {
        to[i] = static_cast<T>(from[x * channels + i]) - shift;
      }
      column += count - 1;
      to += (count - 1) * channels;
    } else {
      for (int64_t c = 0; c < g.channels; ++c) {
        to[c] = static_cast<T>(from[x * g.channels + c]) - shift;
      }
      std::fill(to + g.channels, to + channels, T{});
    }
  }
}

void pad(const Image& image, int64_t chunk) {
  const Geometry& g = *image.geometry;
  const int64_t rows = g.padded_height(), chunks = g.chunks();
  const int64_t end = rows * (chunk + 1) / chunks;
  for (int64_t row = rows * chunk / chunks; row < end; ++row) {
    if (g.depthwise) {
      pad_row<float>(image, row, 0.0f, static_cast<float>(image.x_zero));
    } else {
      pad_row<Code>(image, row, static_cast<Code>(image.x_zero), Code{});
    }
  }
}

// The sums of PIXELS pixels and BLOCKS vectors of channels.
template <int BLOCKS, int PIXELS>
ALWAYS_INLINE void dense_tile(const Geometry& g, const Packed& packed, const Code* x,
                              const int32_t* weights, const int32_t* offsets, float* out) {
  const int64_t row = g.padded_width() * packed.in_channels;
  const int64_t pixel = g.stride_width * packed.in_channels;
  const int64_t words = g.kernel_width * packed.in_channels / TOGETHER;
  Sums sums[BLOCKS][PIXELS];
#pragma GCC unroll 2
  for (int b = 0; b < BLOCKS; ++b) {
#pragma GCC unroll 16
    for (int p = 0; p < PIXELS; ++p) sums[b][p] = lanes::load<Sums>(offsets + b * kLanes);
  }
  for (int64_t tap = 0; tap < g.kernel_height; ++tap) {
    const Code* from = x + tap * row;
    for (int64_t word = 0; word < words; ++word, from += TOGETHER) {
      Sums own[BLOCKS];
#pragma GCC unroll 2
      for (int b = 0; b < BLOCKS; ++b) own[b] = lanes::load<Sums>(weights + b * kLanes);
      weights += BLOCKS * kLanes;
#pragma GCC unroll 16
      for (int p = 0; p < PIXELS; ++p) {
        const int32_t codes = lanes::load<int32_t>(from + p * pixel);
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; ++b) sums[b][p] = dots::dot(sums[b][p], codes, own[b]);
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < PIXELS; ++p) {
#pragma GCC unroll 2
    for (int b = 0; b < BLOCKS; ++b) {
      lanes::store(out + p * packed.out_channels + b * kLanes,
                   __builtin_convertvector(sums[b][p], SumsInFloat));
    }
  }
}

template <int BLOCKS>
void dense_row(const Image& image, int64_t row, int64_t block) {
  constexpr int kWide = kPixels * kBlocks / BLOCKS;
  const Geometry& g = *image.geometry;
  const Packed& packed = *image.packed;
  const int64_t taps = g.kernel_height * g.kernel_width;
  const int64_t first = block * kBlocks * kLanes;
  const int32_t* weights =
      packed.weights.data() + first * taps * (packed.in_channels / TOGETHER);
  const int32_t* offsets = packed.offsets.data() + first;
  const int64_t pixel = g.stride_width * packed.in_channels;
  const Code* x = reinterpret_cast<const Code*>(image.padded) +
                  row * g.stride_height * g.padded_width() * packed.in_channels;
  float* out = image.sums + row * g.out_width * packed.out_channels + first;
  int64_t at = 0;
  const auto advance = [&](int64_t pixels) {
    at += pixels;
    x += pixels * pixel;
    out += pixels * packed.out_channels;
  };
  for (; at + kWide <= g.out_width; advance(kWide)) {
    dense_tile<BLOCKS, kWide>(g, packed, x, weights, offsets, out);
  }
  for (; at + 4 <= g.out_width; advance(4)) {
    dense_tile<BLOCKS, 4>(g, packed, x, weights, offsets, out);
  }
  for (; at < g.out_width; advance(1)) {
    dense_tile<BLOCKS, 1>(g, packed, x, weights, offsets, out);
  }
}

// Products and sums of a depthwise convolution are whole numbers that float32 holds.
template <int PIXELS>
ALWAYS_INLINE void depthwise_tile(const Geometry& g, const Packed& packed, const float* x,
                                  const float* weights, float* out) {
  const int64_t channels = packed.in_channels, row = g.padded_width() * channels;
  const int64_t pixel = g.stride_width * channels;
  for (int64_t c = 0; c < channels; c += lanes::LANES) {
    Floats sums[PIXELS] = {};
    for (int64_t ky = 0; ky < g.kernel_height; ++ky) {
      for (int64_t kx = 0; kx < g.kernel_width; ++kx) {
        const Floats own = lanes::load<Floats>(weights + (ky * g.kernel_width + kx) * channels + c);
        const float* from = x + ky * row + kx * channels + c;
#pragma GCC unroll 4
        for (int p = 0; p < PIXELS; ++p) sums[p] += lanes::load<Floats>(from + p * pixel) * own;
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < PIXELS; ++p) lanes::store(out + p * channels + c, sums[p]);
  }
}

void depthwise_row(const Image& image, int64_t row) {
  const Geometry& g = *image.geometry;
  const Packed& packed = *image.packed;
  const float* weights = reinterpret_cast<const float*>(packed.weights.data());
  const float* x = reinterpret_cast<const float*>(image.padded) +
                   row * g.stride_height * g.padded_width() * packed.in_channels;
  float* out = image.sums + row * g.out_width * packed.out_channels;
  const int64_t pixel = g.stride_width * packed.in_channels;
  int64_t at = 0;
  for (; at + kDepthwisePixels <= g.out_width; at += kDepthwisePixels) {
    depthwise_tile<kDepthwisePixels>(g, packed, x + at * pixel, weights,
                                     out + at * packed.out_channels);
  }
  for (; at < g.out_width; ++at) {
    depthwise_tile<1>(g, packed, x + at * pixel, weights, out + at * packed.out_channels);
  }
}

// Adds a row's sums and their squares, of channels first .. end, to a chunk's totals. In float64:
// the variance is a difference of two of them.
void add_totals(const Image& image, int64_t row, int64_t first, int64_t end, double* totals) {
  const int64_t channels = image.packed->out_channels, width = image.geometry->out_width;
  const float* sums = image.sums + row * width * channels;
  for (int64_t c = first; c < end; c += lanes::LANES) {
    if (c + lanes::LANES > end) {
      for (int64_t i = c; i < end; ++i) {
        for (int64_t at = 0; at < width; ++at) {
          const double value = sums[at * channels + i];
          totals[i] += value;
          totals[channels + i] += value * value;
        }
      }
      return;
    }
    Doubles sum = lanes::load<Doubles>(totals + c);
    Doubles squares = lanes::load<Doubles>(totals + channels + c);
    for (int64_t at = 0; at < width; ++at) {
      const Floats read = lanes::load<Floats>(sums + at * channels + c);
      const Doubles value = __builtin_convertvector(read, Doubles);
      sum += value;
      squares += value * value;
    }
    lanes::store(totals + c, sum);
    lanes::store(totals + channels + c, squares);
  }
}

void convolve(const Image& image, int64_t task) {
  const Geometry& g = *image.geometry;
  const int64_t blocks = image.packed->blocks, channels = image.packed->out_channels;
  const int64_t chunk = task / blocks, block = task % blocks;
  const int64_t first = g.depthwise ? 0 : block * kBlocks * kLanes;
  const int64_t end = g.depthwise ? channels : std::min(first + kBlocks * kLanes, channels);
  double* totals = image.totals + chunk * 2 * channels;
  std::fill(totals + first, totals + end, 0.0);
  std::fill(totals + channels + first, totals + channels + end, 0.0);
  const int64_t last = std::min((chunk + 1) * kRowsOfChunk, g.out_height);
  for (int64_t row = chunk * kRowsOfChunk; row < last; ++row) {
    if (g.depthwise) {
      depthwise_row(image, row);
    } else if (end - first == kBlocks * kLanes) {
      dense_row<kBlocks>(image, row, block);
    } else {
      dense_row<1>(image, row, block);
    }
    add_totals(image, row, first, end, totals);
  }
}

ALWAYS_INLINE Bytes codes_of(Floats value, float slope, float zero) {
  const Floats negative = value * all(slope);
  value = value < Floats{} ? negative : value;
  value = lanes::at_most(1000.0f, lanes::at_least(-1000.0f, value));
  value = (value + all(lanes::kRounder)) - all(lanes::kRounder);
  value = lanes::at_most(255.0f, lanes::at_least(0.0f, value + all(zero)));
  return __builtin_convertvector(__builtin_convertvector(value, Ints), Bytes);
}

#if defined(__AVX512BW__)
// The same for 16 channels. What is too large for 32 bits would come back as the smallest number,
// so that it is cut off before; half to even is how conversions round.
ALWAYS_INLINE void store_codes(uint8_t* to, __m512 value, float slope, int zero) {
  const __mmask16 negative = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
  value = _mm512_mask_mul_ps(value, negative, value, _mm512_set1_ps(slope));
  value = _mm512_max_ps(_mm512_set1_ps(-1000.0f), _mm512_min_ps(_mm512_set1_ps(1000.0f), value));
  const __m512i code = _mm512_add_epi32(_mm512_cvtps_epi32(value), _mm512_set1_epi32(zero));
  const __m512i positive = _mm512_max_epi32(code, _mm512_setzero_si512());
  lanes::store(to, _mm512_cvtusepi32_epi8(positive));
}
#endif

void normalize(const Image& image, int64_t chunk) {
  const Geometry& g = *image.geometry;
  const int64_t channels = image.packed->out_channels;
  const float zero = static_cast<float>(image.y_zero), slope = image.slope;
  const int64_t start = chunk * kRowsOfChunk * g.out_width;
  const int64_t end = std::min((chunk + 1) * kRowsOfChunk, g.out_height) * g.out_width;
  for (int64_t at = start; at < end; ++at) {
    const float* sums = image.sums + at * channels;
    uint8_t* y = image.y + at * g.out_channels;
    int64_t c = 0;
#if defined(__AVX512BW__)
    for (; c + 16 <= g.out_channels; c += 16) {
      const __m512 value = _mm512_fmadd_ps(_mm512_loadu_ps(sums + c),
                                           _mm512_loadu_ps(image.factor + c),
                                           _mm512_loadu_ps(image.shift + c));
      store_codes(y + c, value, slope, image.y_zero);
    }
#endif
    for (; c + lanes::LANES <= g.out_channels; c += lanes::LANES) {
      const Floats value = lanes::load<Floats>(sums + c) * lanes::load<Floats>(image.factor + c) +
                           lanes::load<Floats>(image.shift + c);
      lanes::store(y + c, codes_of(value, slope, zero));
    }
    for (; c < g.out_channels; ++c) {
      y[c] = codes_of(all(sums[c] * image.factor[c] + image.shift[c]), slope, zero)[0];
    }
  }
}

}  // namespace

Kernels NAMED(kernels_, INSTRUCTIONS)() {
  return Kernels{pack, padded_words, pad, convolve, normalize};
}

}  // namespace normed

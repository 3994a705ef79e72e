// The operator NormedConvCodes: checks its inputs, packs its weights once and runs the phases.
#include "normed_conv.hpp"

#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>

#include "operators.hpp"

using runtime::Interface;
using runtime::KernelContext;
using runtime::KernelInfo;
using runtime::Status;

namespace normed {
namespace {

enum Inputs {
  kX = 0, kXGrid = 1, kWeights = 3, kWeightScales = 4, kNormScale = 5, kNormShift = 6, kSlope = 7,
  kYGrid = 8,
};

const Kernels& kernels() {
  static const Kernels chosen = choose_kernels();
  return chosen;
}

struct Kernel {
  int64_t strides[2] = {1, 1}, pads[4] = {0, 0, 0, 0}, group = 1;
  float epsilon = 0;
  std::mutex mutex;
  std::shared_ptr<const Packed> packed;
  int packed_zero = -1;

  // The packed form of weights, which are the same at each call but for a graph that is not
  // optimized: there they are unpacked anew, into memory of its own.
  std::shared_ptr<const Packed> pack(const Geometry& g, const int8_t* weights, std::size_t count,
                                     int zero) {
    const std::lock_guard<std::mutex> lock(mutex);
    const bool known = packed && packed_zero == zero && packed->from.size() == count &&
                       std::memcmp(packed->from.data(), weights, count) == 0;
    if (!known) {
      packed = std::make_shared<const Packed>(kernels().pack(g, weights, zero));
      packed_zero = zero;
    }
    return packed;
  }
};

Status* create(const Interface* api, const KernelInfo* info, void** made) {
  auto kernel = std::make_unique<Kernel>();
  Status* status = api->attribute(info, "epsilon", &kernel->epsilon);
  if (!status) status = api->attribute(info, "group", &kernel->group);
  if (!status) status = api->attribute(info, "strides", kernel->strides, 2);
  if (!status) status = api->attribute(info, "pads", kernel->pads, 4);
  if (!status) *made = kernel.release();
  return status;
}

void destroy(void* kernel) { delete static_cast<Kernel*>(kernel); }

Geometry geometry_of(Call& call, const Kernel& kernel, const Call::Tensor& x,
                     const Call::Tensor& w) {
  Geometry g{};
  if (call.status) return g;
  g.height = x.sizes[1], g.width = x.sizes[2], g.channels = x.sizes[3];
  g.out_channels = w.sizes[0], g.kernel_height = w.sizes[2], g.kernel_width = w.sizes[3];
  g.stride_height = kernel.strides[0], g.stride_width = kernel.strides[1];
  g.pad_top = kernel.pads[0], g.pad_left = kernel.pads[1];
  g.depthwise = kernel.group != 1;
  int64_t least = g.out_channels;
  for (int64_t size : {x.sizes[0], g.height, g.width, g.channels, g.kernel_height, g.kernel_width,
                       g.stride_height, g.stride_width}) {
    least = least < size ? least : size;
  }
  for (int64_t pad : kernel.pads) least = pad < 0 ? 0 : least;
  const bool depthwise = kernel.group == g.channels && g.out_channels == g.channels;
  if (x.rank != 4 || w.rank != 4 || least < 1 || (g.depthwise && !depthwise)) {
    call.fail("x has %zu elements and W %zu in %zu groups; expected maps (batch, height, width, "
              "channels), and one group or one for each channel",
              static_cast<std::size_t>(x.count()), static_cast<std::size_t>(w.count()),
              static_cast<std::size_t>(kernel.group));
    return g;
  }
  const int64_t height = g.height + kernel.pads[0] + kernel.pads[2] - g.kernel_height;
  const int64_t width = g.width + kernel.pads[1] + kernel.pads[3] - g.kernel_width;
  if (height < 0 || width < 0) {
    call.fail("the map is smaller than the kernel, whose weights have %zu elements",
              static_cast<std::size_t>(w.count()));
    return g;
  }
  g.out_height = height / g.stride_height + 1, g.out_width = width / g.stride_width + 1;
  call.require(w, kWeights,
               {g.out_channels, g.depthwise ? 1 : g.channels, g.kernel_height, g.kernel_width});
  return g;
}

// Memory between the phases, kept by each thread that runs a session and used by all operators.
struct Scratch {
  std::vector<int32_t> padded;
  std::vector<float> sums, factor, shift;
  std::vector<double> totals;
};

template <class T>
T* at_least(std::vector<T>& memory, int64_t count) {
  if (memory.size() < static_cast<std::size_t>(count)) memory.resize(count);
  return memory.data();
}

// What the norm makes of a channel's sums, in units of y's codes.
void fill_factors(const Geometry& g, const Packed& packed, const double* totals, float x_scale,
                  const float* weight_scales, const float* scale, const float* shift, float epsilon,
                  float y_scale, Scratch& scratch) {
  const double count = static_cast<double>(g.out_height * g.out_width);
  for (int64_t c = 0; c < g.out_channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t chunk = 0; chunk < g.chunks(); ++chunk) {
      sum += totals[2 * chunk * packed.out_channels + c];
      squares += totals[(2 * chunk + 1) * packed.out_channels + c];
    }
    const double unit = double{x_scale} * weight_scales[c], mean = sum / count;
    const double variance = std::fmax(squares / count - mean * mean, 0.0) * unit * unit;
    const double factor = unit * scale[c] / std::sqrt(variance + epsilon);
    scratch.factor[c] = static_cast<float>(factor / y_scale);
    scratch.shift[c] = static_cast<float>((shift[c] - mean * factor) / y_scale);
  }
}

struct Job {
  const Image& image;
  void (*phase)(const Image&, int64_t);
};

void run_task(void* data, std::size_t task) {
  const Job& job = *static_cast<const Job*>(data);
  job.phase(job.image, static_cast<int64_t>(task));
}

Status* compute(void* made, const Interface* api, KernelContext* context) {
  Kernel& kernel = *static_cast<Kernel*>(made);
  Call call(api, context);
  const Call::Tensor x = call.input(kX), w = call.input(kWeights);
  const Geometry g = geometry_of(call, kernel, x, w);
  const Call::Tensor weight_scales = call.input(kWeightScales), scale = call.input(kNormScale),
                     shift = call.input(kNormShift);
  call.require(weight_scales, kWeightScales, {g.out_channels});
  call.require(scale, kNormScale, {g.out_channels});
  call.require(shift, kNormShift, {g.out_channels});
  const scan::Grid x_grid = call.grid(kXGrid), y_grid = call.grid(kYGrid);
  const float slope = call.scalar<float>(kSlope);
  Call::Tensor like = x;
  like.sizes[1] = g.out_height, like.sizes[2] = g.out_width, like.sizes[3] = g.out_channels;
  uint8_t* y = static_cast<uint8_t*>(call.output(like));
  if (call.status) return call.status;

  const auto packed = kernel.pack(g, as<int8_t>(w), static_cast<std::size_t>(w.count()),
                                  x_grid.zero);
  thread_local Scratch scratch;
  Image image{};
  image.geometry = &g, image.packed = packed.get();
  image.x_zero = x_grid.zero, image.y_zero = y_grid.zero, image.slope = slope;
  const int64_t channels = packed->out_channels;
  image.padded = at_least(scratch.padded, kernels().padded_words(g, *packed));
  image.sums = at_least(scratch.sums, g.out_height * g.out_width * channels);
  image.totals = at_least(scratch.totals, g.chunks() * 2 * channels);
  image.factor = at_least(scratch.factor, channels);
  image.shift = at_least(scratch.shift, channels);
  const auto run = [&](void (*phase)(const Image&, int64_t), int64_t tasks) {
    Job job{image, phase};
    call.run_each(static_cast<std::size_t>(tasks), run_task, &job);
  };
  for (int64_t index = 0; index < x.sizes[0] && !call.status; ++index) {
    image.x = as<uint8_t>(x) + index * g.height * g.width * g.channels;
    image.y = y + index * g.out_height * g.out_width * g.out_channels;
    run(kernels().pad, g.chunks());
    run(kernels().convolve, g.chunks() * packed->blocks);
    fill_factors(g, *packed, image.totals, x_grid.scale, as<float>(weight_scales), as<float>(scale),
                 as<float>(shift), kernel.epsilon, y_grid.scale, scratch);
    run(kernels().normalize, g.chunks());
  }
  return call.status;
}

}  // namespace

const Definition* definition() {
  static const Definition made =
      define("NormedConvCodes", "CFCIFFFFFC", runtime::Element::kUint8, create, compute, destroy);
  return &made;
}

}  // namespace normed

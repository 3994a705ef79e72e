// Custom operators for ONNX Runtime, domain ai.lmaunet. Each computes what the function of the
// same name in a model computes: with this library ONNX Runtime takes these kernels, without it
// the functions.
//
//   SelectiveScan(x, dt, A, B, C, D) -> y                       float32
//   SelectiveScanCodes(x, x_scale, x_zero, dt, dt_scale, dt_zero, A, B, B_scale, B_zero,
//                      C, C_scale, C_zero, D, y_scale, y_zero) -> y      UINT8 codes
//   SiluCodes(x, x_scale, x_zero, y_scale, y_zero) -> y                  UINT8 codes
//   PixelShuffleCodes(x, blocks, shape) -> y                             UINT8 codes
//   NormedConvCodes, in normed_conv.cpp                                  UINT8 codes
//
// The maps of codes are (batch, 1, tokens, channels); shapes of SelectiveScan are in Sizes.
#include <cmath>
#include <cstring>

#include "operators.hpp"
#include "scan_tensors.hpp"

using runtime::Element;
using runtime::ErrorCode;
using runtime::Interface;
using runtime::KernelContext;
using runtime::KernelInfo;
using runtime::Operator;
using runtime::Status;

namespace {

const scan::Kernels& kernels() {
  static const scan::Kernels chosen = scan::choose_kernels();
  return chosen;
}

// Runs `kernel` on each block of channels.
template <class Tensors>
void run_blocks(Call& call, void (*kernel)(const scan::Sizes&, const Tensors&, int64_t),
                const scan::Sizes& sizes, const Tensors& tensors) {
  struct Job {
    void (*kernel)(const scan::Sizes&, const Tensors&, int64_t);
    const scan::Sizes& sizes;
    const Tensors& tensors;
  } job{kernel, sizes, tensors};
  const auto task = [](void* data, std::size_t block) {
    const Job& given = *static_cast<const Job*>(data);
    given.kernel(given.sizes, given.tensors, static_cast<int64_t>(block));
  };
  call.run_each(static_cast<std::size_t>(sizes.batch * sizes.blocks()), task, &job);
}

scan::Sizes sizes_of(Call& call, int64_t batch, int64_t tokens, const Call::Tensor& A,
                     std::size_t A_index, const Call::Tensor& D, std::size_t D_index) {
  const int64_t channels = A.sizes[0], states = A.sizes[1];
  call.require(A, A_index, {channels, states});
  call.require(D, D_index, {channels});
  if (states < 1 || states > scan::kMostStates) {
    call.fail("%zu states; expected 1 to %zu", static_cast<std::size_t>(states),
              static_cast<std::size_t>(scan::kMostStates));
  }
  return scan::Sizes{batch, tokens, channels, states, as<float>(A), as<float>(D)};
}

Status* compute_scan(const Interface* api, KernelContext* context) {
  Call call(api, context);
  const Call::Tensor x = call.input(0), dt = call.input(1), A = call.input(2), B = call.input(3),
                     C = call.input(4), D = call.input(5);
  const scan::Sizes sizes = sizes_of(call, x.sizes[0], x.sizes[1], A, 2, D, 5);
  call.require(x, 0, {sizes.batch, sizes.tokens, sizes.channels});
  call.require(dt, 1, {sizes.batch, sizes.tokens, sizes.channels});
  call.require(B, 3, {sizes.batch, sizes.tokens, sizes.states});
  call.require(C, 4, {sizes.batch, sizes.tokens, sizes.states});
  const scan::FloatTensors tensors{as<float>(x), as<float>(dt), as<float>(B), as<float>(C),
                                   static_cast<float*>(call.output(x))};
  run_blocks(call, kernels().floats, sizes, tensors);
  return call.status;
}

Status* compute_scan_codes(const Interface* api, KernelContext* context) {
  Call call(api, context);
  const Call::Tensor x = call.input(0), dt = call.input(3), A = call.input(6), B = call.input(7),
                     C = call.input(10), D = call.input(13);
  const scan::Sizes sizes = sizes_of(call, x.sizes[0], x.sizes[2], A, 6, D, 13);
  call.require(x, 0, {sizes.batch, 1, sizes.tokens, sizes.channels});
  call.require(dt, 3, {sizes.batch, 1, sizes.tokens, sizes.channels});
  call.require(B, 7, {sizes.batch, 1, sizes.tokens, sizes.states});
  call.require(C, 10, {sizes.batch, 1, sizes.tokens, sizes.states});
  scan::CodeTensors tensors;
  tensors.x = as<uint8_t>(x);
  tensors.dt = as<uint8_t>(dt);
  tensors.B = as<uint8_t>(B);
  tensors.C = as<uint8_t>(C);
  tensors.x_grid = call.grid(1);
  tensors.b_grid = call.grid(8);
  tensors.c_grid = call.grid(11);
  tensors.y_grid = call.grid(14);
  const scan::Grid dt_grid = call.grid(4);
  for (int code = 0; code < 256; ++code) {
    const double dt_value = dt_grid.value(code);
    tensors.delta[code] = static_cast<float>(std::log1p(std::exp(-std::fabs(dt_value))) +
                                             (dt_value > 0 ? dt_value : 0.0));
  }
  tensors.y = static_cast<uint8_t*>(call.output(x));
  run_blocks(call, kernels().codes, sizes, tensors);
  return call.status;
}

// A function of one code is a table of 256.
struct Lookup {
  const uint8_t* from;
  uint8_t* to;
  std::size_t count;
  uint8_t table[256];

  static constexpr std::size_t kChunk = 1 << 15;
};

void look_up(void* data, std::size_t chunk) {
  const Lookup& job = *static_cast<const Lookup*>(data);
  const std::size_t start = chunk * Lookup::kChunk;
  const std::size_t end = start + Lookup::kChunk < job.count ? start + Lookup::kChunk : job.count;
  for (std::size_t i = start; i < end; ++i) job.to[i] = job.table[job.from[i]];
}

Status* compute_silu_codes(const Interface* api, KernelContext* context) {
  Call call(api, context);
  const Call::Tensor x = call.input(0);
  const scan::Grid from = call.grid(1), to = call.grid(3);
  Lookup job;
  job.from = as<uint8_t>(x);
  job.to = static_cast<uint8_t*>(call.output(x));
  job.count = static_cast<std::size_t>(x.count());
  for (int code = 0; code < 256; ++code) {
    const float value = from.value(code);
    const float silu = value * static_cast<float>(1.0 / (1.0 + std::exp(-double{value})));
    const float rounded = std::nearbyint(silu / to.scale) + static_cast<float>(to.zero);
    job.table[code] = static_cast<uint8_t>(std::fmin(std::fmax(rounded, 0.0f), 255.0f));
  }
  call.run_each((job.count + Lookup::kChunk - 1) / Lookup::kChunk, look_up, &job);
  return call.status;
}

// Channels that are (C, rows of a block, columns of a block) become pixels.
struct Shuffle {
  const uint8_t* from;
  uint8_t* to;
  int64_t width, channels, rows, columns;  // of x; of y; of a block
};

// A row of x to `rows` rows of y.
void shuffle_row(void* data, std::size_t row) {
  const Shuffle& job = *static_cast<const Shuffle*>(data);
  const int64_t block = job.rows * job.columns, inside = job.channels * block;
  const uint8_t* from = job.from + static_cast<int64_t>(row) * job.width * inside;
  uint8_t* to = job.to + static_cast<int64_t>(row) * job.width * inside;
  for (int64_t y = 0; y < job.rows; ++y) {
    for (int64_t x = 0; x < job.width; ++x) {
      for (int64_t column = 0; column < job.columns; ++column) {
        const uint8_t* codes = from + x * inside + y * job.columns + column;
        for (int64_t c = 0; c < job.channels; ++c) *to++ = codes[c * block];
      }
    }
  }
}

Status* compute_shuffle_codes(const Interface* api, KernelContext* context) {
  Call call(api, context);
  const Call::Tensor x = call.input(0), blocks = call.input(1), shape = call.input(2);
  call.require(blocks, 1, {6});
  call.require(shape, 2, {4});
  if (call.status) return call.status;
  Call::Tensor like = x;
  std::memcpy(like.sizes, shape.data, sizeof like.sizes);
  const int64_t rows = as<int64_t>(blocks)[4], columns = as<int64_t>(blocks)[5];
  const bool fits = x.rank == 4 && rows > 0 && columns > 0 && like.sizes[0] == x.sizes[0] &&
                    like.sizes[1] == x.sizes[1] * rows && like.sizes[2] == x.sizes[2] * columns &&
                    like.sizes[3] * rows * columns == x.sizes[3];
  if (!fits) {
    call.fail("%zu codes in blocks of %zu rows and %zu columns do not give the shape",
              static_cast<std::size_t>(x.count()), static_cast<std::size_t>(rows),
              static_cast<std::size_t>(columns));
    return call.status;
  }
  Shuffle job{as<uint8_t>(x), static_cast<uint8_t*>(call.output(like)), x.sizes[2], like.sizes[3],
              rows, columns};
  call.run_each(static_cast<std::size_t>(x.sizes[0] * x.sizes[1]), shuffle_row, &job);
  return call.status;
}

// An operator that keeps nothing from one run to the next.
template <Status* (*COMPUTE)(const Interface*, KernelContext*)>
Definition stateless(const char* name, const char* inputs, Element output) {
  return define(
      name, inputs, output,
      [](const Interface*, const KernelInfo*, void** state) -> Status* {
        *state = nullptr;
        return nullptr;
      },
      [](void*, const Interface* api, KernelContext* context) { return COMPUTE(api, context); },
      [](void*) {});
}

struct Kernel {
  const Interface* api;
  const Definition* operation;
  void* state;
};

const Definition kOperators[] = {
    stateless<compute_scan>("SelectiveScan", "FFFFFF", Element::kFloat),
    stateless<compute_scan_codes>("SelectiveScanCodes", "CFCCFCFCFCCFCFFC", Element::kUint8),
    stateless<compute_silu_codes>("SiluCodes", "CFCFC", Element::kUint8),
    stateless<compute_shuffle_codes>("PixelShuffleCodes", "CLL", Element::kUint8),
};

}  // namespace

Definition define(const char* name, const char* inputs, Element output,
                  Status* (*create)(const Interface*, const KernelInfo*, void**),
                  Status* (*compute)(void*, const Interface*, KernelContext*),
                  void (*destroy)(void*)) {
  Definition made{};
  made.version = runtime::kInterfaceVersion;
  made.op_name = name;
  made.inputs = inputs;
  made.output = output;
  made.create_state = create;
  made.compute_state = compute;
  made.destroy_state = destroy;
  made.name = [](const Operator* op) { return static_cast<const Definition*>(op)->op_name; };
  made.execution_provider = [](const Operator*) -> const char* { return nullptr; };
  made.input_count = [](const Operator* op) {
    return std::strlen(static_cast<const Definition*>(op)->inputs);
  };
  made.input_type = [](const Operator* op, std::size_t index) {
    switch (static_cast<const Definition*>(op)->inputs[index]) {
      case 'F':
        return Element::kFloat;
      case 'I':
        return Element::kInt8;
      case 'L':
        return Element::kInt64;
      default:
        return Element::kUint8;
    }
  };
  made.output_count = [](const Operator*) -> std::size_t { return 1; };
  made.output_type = [](const Operator* op, std::size_t) {
    return static_cast<const Definition*>(op)->output;
  };
  made.input_characteristic = [](const Operator*, std::size_t) { return 0; };
  made.output_characteristic = made.input_characteristic;
  made.input_memory = made.input_characteristic;
  const auto one = [](const Operator*) { return 1; };
  made.variadic_input_minimum = made.variadic_input_homogeneous = one;
  made.variadic_output_minimum = made.variadic_output_homogeneous = one;
  made.start_version = one;
  made.end_version = [](const Operator*) { return INT32_MAX; };
  made.create_kernel_2 = [](const Operator* op, const Interface* api, const KernelInfo* info,
                            void** kernel) -> Status* {
    const Definition* definition = static_cast<const Definition*>(op);
    void* state = nullptr;
    Status* status = definition->create_state(api, info, &state);
    if (!status) *kernel = new Kernel{api, definition, state};
    return status;
  };
  made.compute_2 = [](void* kernel, KernelContext* context) {
    const Kernel& own = *static_cast<Kernel*>(kernel);
    return own.operation->compute_state(own.state, own.api, context);
  };
  made.destroy_kernel = [](void* kernel) {
    Kernel* own = static_cast<Kernel*>(kernel);
    own->operation->destroy_state(own->state);
    delete own;
  };
  return made;
}

// What ONNX Runtime calls when a session registers the library.
extern "C" __attribute__((visibility("default"))) Status* RegisterCustomOps(
    runtime::SessionOptions* options, const runtime::InterfaceBase* base) {
  const Interface* api = base->get(runtime::kInterfaceVersion);
  if (!api) {
    return base->get(1)->create_status(
        ErrorCode::kFail, "the operators of ai.lmaunet need ONNX Runtime 1.17 or newer");
  }
  runtime::OperatorDomain* domain = nullptr;
  Status* status = api->create_domain("ai.lmaunet", &domain);
  for (const Definition& op : kOperators) {
    if (!status) status = api->add_operator(domain, &op);
  }
  if (!status) status = api->add_operator(domain, normed::definition());
  return status ? status : api->add_domain(options, domain);
}

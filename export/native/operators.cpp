// Custom operators for ONNX Runtime, domain ai.lmaunet. Each computes what the function of the
// same name in a model computes: with this library ONNX Runtime takes these kernels, without it
// the functions.
//
//   SelectiveScan(x, dt, A, B, C, D) -> y                       float32
//   SelectiveScanCodes(x, x_scale, x_zero, dt, dt_scale, dt_zero, A, B, B_scale, B_zero,
//                      C, C_scale, C_zero, D, y_scale, y_zero) -> y      UINT8 codes
//   SiluCodes(x, x_scale, x_zero, y_scale, y_zero) -> y                  UINT8 codes
//
// The maps of codes are (batch, 1, tokens, channels); shapes of SelectiveScan are in Sizes.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "runtime_abi.hpp"
#include "scan_tensors.hpp"

using runtime::Element;
using runtime::ErrorCode;
using runtime::Interface;
using runtime::KernelContext;
using runtime::Operator;
using runtime::Status;

namespace {

const scan::Kernels& kernels() {
  static const scan::Kernels chosen = scan::choose_kernels();
  return chosen;
}

// The tensors of one call. The first error stays in `status`, and nothing is read after it.
class Call {
 public:
  Call(const Interface* api, KernelContext* context) : api_(api), context_(context) {}

  struct Tensor {
    const void* data = nullptr;
    int64_t sizes[4] = {0, 0, 0, 0};
    std::size_t rank = 0;

    int64_t count() const {
      int64_t product = 1;
      for (std::size_t i = 0; i < rank; ++i) product *= sizes[i];
      return product;
    }
  };

  Tensor input(std::size_t index) {
    Tensor tensor;
    const runtime::Value* value = nullptr;
    runtime::TypeAndShape* shape = nullptr;
    void* data = nullptr;
    if (!good(api_->input(context_, index, &value)) || !good(api_->shape(value, &shape))) {
      return tensor;
    }
    if (good(api_->rank(shape, &tensor.rank))) {
      if (tensor.rank > 4) {
        fail("input %zu has rank %zu; expected at most 4", index, tensor.rank);
      } else {
        good(api_->dimensions(shape, tensor.sizes, tensor.rank));
      }
    }
    api_->release(shape);
    // the interface has one function for reading and writing
    if (!status && good(api_->data(const_cast<runtime::Value*>(value), &data))) tensor.data = data;
    return tensor;
  }

  void* output(const Tensor& like) {
    runtime::Value* value = nullptr;
    void* data = nullptr;
    if (!status && good(api_->output(context_, 0, like.sizes, like.rank, &value))) {
      good(api_->data(value, &data));
    }
    return data;
  }

  // A scalar, or a tensor of one element.
  template <class T>
  T scalar(std::size_t index) {
    const Tensor tensor = input(index);
    if (!status && tensor.count() != 1) {
      fail("input %zu has %zu elements; expected 1", index,
           static_cast<std::size_t>(tensor.count()));
    }
    return status ? T{} : *static_cast<const T*>(tensor.data);
  }

  scan::Grid grid(std::size_t index) {
    const float scale = scalar<float>(index);
    return scan::Grid{scale, scalar<uint8_t>(index + 1)};
  }

  void require(const Tensor& tensor, std::size_t index, std::initializer_list<int64_t> expected) {
    if (status) return;
    bool same = tensor.rank == expected.size();
    std::size_t axis = 0;
    for (int64_t size : expected) {
      same = same && tensor.sizes[axis] == size;
      ++axis;
    }
    if (!same) {
      fail("input %zu has %zu elements in rank %zu, which does not fit the scan's sizes", index,
           static_cast<std::size_t>(tensor.count()), tensor.rank);
    }
  }

  template <class... Values>
  void fail(const char* format, Values... values) {
    if (status) return;
    char text[200];
    std::snprintf(text, sizeof text, format, values...);
    status = api_->create_status(ErrorCode::kInvalidArgument, text);
  }

  // Runs `kernel` on each block of channels.
  template <class Tensors>
  void run(void (*kernel)(const scan::Sizes&, const Tensors&, int64_t), const scan::Sizes& sizes,
           const Tensors& tensors) {
    struct Job {
      void (*kernel)(const scan::Sizes&, const Tensors&, int64_t);
      const scan::Sizes& sizes;
      const Tensors& tensors;
    } job{kernel, sizes, tensors};
    const auto task = [](void* data, std::size_t block) {
      const Job& given = *static_cast<const Job*>(data);
      given.kernel(given.sizes, given.tensors, static_cast<int64_t>(block));
    };
    run_each(static_cast<std::size_t>(sizes.batch * sizes.blocks()), task, &job);
  }

  template <class Job>
  void run_each(std::size_t count, void (*task)(void*, std::size_t), Job* job) {
    if (!status) good(api_->parallel_for(context_, task, count, job));
  }

  Status* status = nullptr;

 private:
  bool good(Status* result) {
    if (!result) return true;
    if (status) {
      api_->release(result);
    } else {
      status = result;
    }
    return false;
  }

  const Interface* api_;
  KernelContext* context_;
};

template <class T>
const T* as(const Call::Tensor& tensor) {
  return static_cast<const T*>(tensor.data);
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
  call.run(kernels().floats, sizes, tensors);
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
  call.run(kernels().codes, sizes, tensors);
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

struct Kernel {
  const Interface* api;
};

// A letter for each input: F for float32, C for UINT8 codes.
struct Definition : Operator {
  const char* op_name;
  const char* inputs;
  Element output;
};

template <Status* (*COMPUTE)(const Interface*, KernelContext*)>
Definition define(const char* name, const char* inputs, Element output) {
  Definition made{};
  made.version = runtime::kInterfaceVersion;
  made.op_name = name;
  made.inputs = inputs;
  made.output = output;
  made.name = [](const Operator* op) { return static_cast<const Definition*>(op)->op_name; };
  made.execution_provider = [](const Operator*) -> const char* { return nullptr; };
  made.input_count = [](const Operator* op) {
    return std::strlen(static_cast<const Definition*>(op)->inputs);
  };
  made.input_type = [](const Operator* op, std::size_t index) {
    const char letter = static_cast<const Definition*>(op)->inputs[index];
    return letter == 'F' ? Element::kFloat : Element::kUint8;
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
  made.create_kernel_2 = [](const Operator*, const Interface* api, const runtime::KernelInfo*,
                            void** kernel) -> Status* {
    *kernel = new Kernel{api};
    return nullptr;
  };
  made.compute_2 = [](void* kernel, KernelContext* context) {
    return COMPUTE(static_cast<Kernel*>(kernel)->api, context);
  };
  made.destroy_kernel = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return made;
}

const Definition kOperators[] = {
    define<compute_scan>("SelectiveScan", "FFFFFF", Element::kFloat),
    define<compute_scan_codes>("SelectiveScanCodes", "CFCCFCFCFCCFCFFC", Element::kUint8),
    define<compute_silu_codes>("SiluCodes", "CFCFC", Element::kUint8),
};

}  // namespace

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
  return status ? status : api->add_domain(options, domain);
}

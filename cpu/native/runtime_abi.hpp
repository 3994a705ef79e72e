// The part of ONNX Runtime's C interface that a custom operator needs.
//
// ONNX Runtime's packages for Python carry no headers. Its interface is a table of functions that
// only ever grows at the end, so the places below are those of every release from 1.17 on; the
// callbacks of an operator are a struct that grows in the same way, by the version in its first
// field. Declared here is what operators.cpp calls, nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

namespace runtime {

// Opaque objects of ONNX Runtime.
struct Status;
struct SessionOptions;
struct OperatorDomain;
struct Value;
struct TypeAndShape;
struct KernelInfo;
struct KernelContext;
struct ShapeInference;

constexpr uint32_t kInterfaceVersion = 17;  // ONNX Runtime 1.17: the first with ParallelFor
constexpr std::size_t kFunctions = 275;

enum class ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum class Element : int { kFloat = 1, kUint8 = 2, kInt8 = 3, kInt64 = 7 };

// The table of functions. A function is called through `at<Type>(place)`.
struct Interface {
  void* functions[kFunctions];

  template <class Function>
  Function at(std::size_t place) const {
    return reinterpret_cast<Function>(functions[place]);
  }

  Status* create_status(ErrorCode code, const char* text) const {
    return at<Status* (*)(ErrorCode, const char*)>(0)(code, text);
  }
  Status* create_domain(const char* name, OperatorDomain** domain) const {
    return at<Status* (*)(const char*, OperatorDomain**)>(26)(name, domain);
  }
  Status* add_operator(OperatorDomain* domain, const struct Operator* op) const {
    return at<Status* (*)(OperatorDomain*, const struct Operator*)>(27)(domain, op);
  }
  Status* add_domain(SessionOptions* options, OperatorDomain* domain) const {
    return at<Status* (*)(SessionOptions*, OperatorDomain*)>(28)(options, domain);
  }
  Status* data(Value* value, void** data) const {
    return at<Status* (*)(Value*, void**)>(51)(value, data);
  }
  Status* rank(const TypeAndShape* shape, std::size_t* rank) const {
    return at<Status* (*)(const TypeAndShape*, std::size_t*)>(61)(shape, rank);
  }
  Status* dimensions(const TypeAndShape* shape, int64_t* sizes, std::size_t rank) const {
    return at<Status* (*)(const TypeAndShape*, int64_t*, std::size_t)>(62)(shape, sizes, rank);
  }
  Status* shape(const Value* value, TypeAndShape** shape) const {
    return at<Status* (*)(const Value*, TypeAndShape**)>(65)(value, shape);
  }
  // An attribute of a node: a number, or as many as `count`.
  Status* attribute(const KernelInfo* info, const char* name, float* value) const {
    return at<Status* (*)(const KernelInfo*, const char*, float*)>(85)(info, name, value);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* value) const {
    return at<Status* (*)(const KernelInfo*, const char*, int64_t*)>(86)(info, name, value);
  }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* values,
                    std::size_t count) const {
    return at<Status* (*)(const KernelInfo*, const char*, int64_t*, std::size_t*)>(163)(
        info, name, values, &count);
  }
  Status* input(const KernelContext* context, std::size_t index, const Value** value) const {
    return at<Status* (*)(const KernelContext*, std::size_t, const Value**)>(90)(context, index,
                                                                                 value);
  }
  Status* output(KernelContext* context, std::size_t index, const int64_t* sizes, std::size_t rank,
                 Value** value) const {
    return at<Status* (*)(KernelContext*, std::size_t, const int64_t*, std::size_t, Value**)>(91)(
        context, index, sizes, rank, value);
  }
  void release(Status* status) const { at<void (*)(Status*)>(93)(status); }
  void release(TypeAndShape* shape) const { at<void (*)(TypeAndShape*)>(99)(shape); }
  // Calls `task(data, i)` for each i below `count`, on the session's threads.
  Status* parallel_for(const KernelContext* context, void (*task)(void*, std::size_t),
                       std::size_t count, void* data) const {
    using Function = Status* (*)(const KernelContext*, void (*)(void*, std::size_t), std::size_t,
                                 std::size_t, void*);
    return at<Function>(274)(context, task, count, 0, data);
  }
};

struct InterfaceBase {
  const Interface* (*get)(uint32_t version);
  const char* (*version_text)();
};

// The callbacks of one operator.
struct Operator {
  uint32_t version;
  void* (*create_kernel)(const Operator*, const Interface*, const KernelInfo*);
  const char* (*name)(const Operator*);
  const char* (*execution_provider)(const Operator*);
  Element (*input_type)(const Operator*, std::size_t);
  std::size_t (*input_count)(const Operator*);
  Element (*output_type)(const Operator*, std::size_t);
  std::size_t (*output_count)(const Operator*);
  void (*compute)(void* kernel, KernelContext*);
  void (*destroy_kernel)(void* kernel);
  int (*input_characteristic)(const Operator*, std::size_t);
  int (*output_characteristic)(const Operator*, std::size_t);
  int (*input_memory)(const Operator*, std::size_t);
  int (*variadic_input_minimum)(const Operator*);
  int (*variadic_input_homogeneous)(const Operator*);
  int (*variadic_output_minimum)(const Operator*);
  int (*variadic_output_homogeneous)(const Operator*);
  Status* (*create_kernel_2)(const Operator*, const Interface*, const KernelInfo*, void** kernel);
  Status* (*compute_2)(void* kernel, KernelContext*);
  Status* (*infer_shape)(const Operator*, ShapeInference*);
  int (*start_version)(const Operator*);
  int (*end_version)(const Operator*);
  void* later[4];  // of later versions; not read where `version` is 17
};

}  // namespace runtime

// The tensors of one call of an operator, over ONNX Runtime's interface.
#pragma once

#include <cstdio>
#include <cstring>
#include <initializer_list>

#include "runtime_abi.hpp"
#include "scan_tensors.hpp"

// The first error stays in `status`, and nothing is read after it.
class Call {
 public:
  Call(const runtime::Interface* api, runtime::KernelContext* context)
      : api_(api), context_(context) {}

  struct Tensor {
    const void* data = nullptr;
    int64_t sizes[4] = {0, 0, 0, 0};  // of the first `rank` axes
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
      fail("input %zu has %zu elements in rank %zu, which does not fit the other inputs' sizes",
           index, static_cast<std::size_t>(tensor.count()), tensor.rank);
    }
  }

  template <class... Values>
  void fail(const char* format, Values... values) {
    if (status) return;
    char text[200];
    std::snprintf(text, sizeof text, format, values...);
    status = api_->create_status(runtime::ErrorCode::kInvalidArgument, text);
  }

  template <class Job>
  void run_each(std::size_t count, void (*task)(void*, std::size_t), Job* job) {
    if (!status) good(api_->parallel_for(context_, task, count, job));
  }

  runtime::Status* status = nullptr;

 private:
  bool good(runtime::Status* result) {
    if (!result) return true;
    if (status) {
      api_->release(result);
    } else {
      status = result;
    }
    return false;
  }

  const runtime::Interface* api_;
  runtime::KernelContext* context_;
};

template <class T>
const T* as(const Call::Tensor& tensor) {
  return static_cast<const T*>(tensor.data);
}

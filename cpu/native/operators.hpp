// How an operator is told to ONNX Runtime: its name, the types of its inputs, and three functions.
#pragma once

#include <cstring>

#include "call.hpp"

// A letter for each input: F for float32, C for UINT8 codes, I for INT8, L for INT64.
struct Definition : runtime::Operator {
  const char* op_name;
  const char* inputs;
  runtime::Element output;
  runtime::Status* (*create_state)(const runtime::Interface*, const runtime::KernelInfo*, void**);
  runtime::Status* (*compute_state)(void*, const runtime::Interface*, runtime::KernelContext*);
  void (*destroy_state)(void*);
};

// Returns an operator of one output.
//
// `create` makes what a node of the graph keeps, `compute` runs it, in several threads at a time if
// need be, and `destroy` frees it.
Definition define(
    const char* name, const char* inputs, runtime::Element output,
    runtime::Status* (*create)(const runtime::Interface*, const runtime::KernelInfo*, void**),
    runtime::Status* (*compute)(void*, const runtime::Interface*, runtime::KernelContext*),
    void (*destroy)(void*));

namespace normed {
const Definition* definition();
}

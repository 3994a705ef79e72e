// The scan's kernels for one instruction set: compiled with -DINSTRUCTIONS=name and the compiler's
// -march of it.
#include "scan_kernel.hpp"

#define JOIN(a, b) a##b
#define NAMED(prefix, name) JOIN(prefix, name)

namespace scan {

Kernels NAMED(kernels_, INSTRUCTIONS)() {
  return Kernels{
      [](const Sizes& sizes, const FloatTensors& tensors, int64_t block) {
        run(sizes, tensors, block);
      },
      [](const Sizes& sizes, const CodeTensors& tensors, int64_t block) {
        run(sizes, tensors, block);
      },
  };
}

}  // namespace scan

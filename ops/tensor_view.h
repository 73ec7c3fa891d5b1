// SPDX-License-Identifier: Apache-2.0
// Tensors as the kernels see them: plain data, no torch.
#pragma once

#include <cstdint>

namespace carafe {

enum class Dtype : int32_t { kFloat, kDouble, kHalf, kBFloat16 };

struct Elements {
  void* data;
  Dtype dtype;
};

struct TensorView : Elements {
  int64_t stride[4]; // in elements: image, channel, row, column
};

// Masks or logits, as [image, group, entry, phase row, phase column, cell row,
// cell column]: which of the two they are is a matter of strides alone.
struct MaskView : Elements {
  int64_t image, group, entry; // strides, in elements
  int64_t phase_row, phase_column;
  int64_t cell_row, cell_column;
};

} // namespace carafe

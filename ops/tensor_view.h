// SPDX-License-Identifier: Apache-2.0
// A tensor as the kernels see it: plain data, no torch.
#pragma once

#include <cstdint>

namespace carafe {

enum class Dtype : int32_t { kFloat, kDouble, kHalf, kBFloat16 };

struct TensorView {
  void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0}; // in elements: image, channel, row, column
  Dtype dtype = Dtype::kFloat;
};

} // namespace carafe

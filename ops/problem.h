// SPDX-License-Identifier: Apache-2.0
// One call of an operator as the kernels see it, on every device: plain data, no torch.
#pragma once

#include <cstdint>

#include "reassembly.h"
#include "tensor_view.h"

namespace carafe {

// An operator leaves what it does not use empty.
struct Problem {
  TensorView features; // [N, C, H, W]
  TensorView output; // [N, C, cells_h*phases, cells_w*phases]
  MaskView masks; // as they are or, if `softmax`, logits that the kernel normalises
  MaskView grad_masks; // what correlate writes: the gradient of `masks`
  bool softmax;
  bool wide; // sums in float64
  int64_t batch, channels, groups;
  int64_t in_h, in_w, cells_h, cells_w;
  int64_t kernel_size, phases, step;
};

CARAFE_HD int64_t group_channels(const Problem& p) { return p.channels / p.groups; }
CARAFE_HD int64_t mask_entries(const Problem& p) { return p.kernel_size * p.kernel_size; }
CARAFE_HD int64_t output_pixels(const Problem& p) { // of an image
  return p.cells_h * p.cells_w * p.phases * p.phases;
}

} // namespace carafe

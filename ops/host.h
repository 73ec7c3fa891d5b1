// SPDX-License-Identifier: Apache-2.0
// What the two libraries, CPU and CUDA, share on the host. host.cpp has the
// operators' entries: checks, outputs, early return on empty; it is compiled
// into both. Each library defines the functions of namespace `device`.
#pragma once

#include "binding.h"
#include "reassembly.h"
#include "tensor_view.h"

namespace carafe {

// Sizes, and what shapes follow from them.
struct Sizes {
  int64_t batch, channels, in_h, in_w, kernel_size, group_size, scale_factor;
  bool down;

  int64_t phases() const {
    return down ? carafe::phases<Map::kDown>(scale_factor) : carafe::phases<Map::kUp>(scale_factor);
  }
  int64_t step() const {
    return down ? centre_step<Map::kDown>(scale_factor) : centre_step<Map::kUp>(scale_factor);
  }
  int64_t cells(int64_t size) const {
    return down ? carafe::cells<Map::kDown>(size, scale_factor)
                : carafe::cells<Map::kUp>(size, scale_factor);
  }
  int64_t out_h() const { return cells(in_h) * phases(); }
  int64_t out_w() const { return cells(in_w) * phases(); }
  int64_t mask_channels() const { return group_size * kernel_size * kernel_size; }
  int64_t logit_channels() const { return mask_channels() * phases() * phases(); }
};

// One call, checked, with its result allocated. An operator leaves what it
// does not use null.
struct Call {
  Sizes sizes;
  bool softmax = false; // masks are logits
  bool wide = false; // sums in float64
  const Tensor* features = nullptr; // [N, C, H, W]
  const Tensor* output = nullptr; // [N, C, H', W']
  const Tensor* masks = nullptr; // [N, G*k*k, H', W'], or logits
  const Tensor* grad_masks = nullptr; // as masks; what correlate writes
};

// A device's own struct, with the sizes of a call filled in.
template <typename Struct>
Struct describe(const Call& call) {
  const Sizes& sizes = call.sizes;
  Struct p{};
  p.batch = sizes.batch;
  p.channels = sizes.channels;
  p.groups = sizes.group_size;
  p.in_h = sizes.in_h;
  p.in_w = sizes.in_w;
  p.cells_h = sizes.cells(sizes.in_h);
  p.cells_w = sizes.cells(sizes.in_w);
  p.kernel_size = sizes.kernel_size;
  p.phases = sizes.phases();
  p.step = sizes.step();
  p.softmax = call.softmax;
  return p;
}

// The tensor's data and strides; `mutable_view` is for what a kernel writes.
TensorView view(const Tensor& tensor);
TensorView mutable_view(const Tensor& tensor);

namespace device {

void allocated(const Tensor& result); // called with every result
void reassemble(const Call& call);
void correlate(const Call& call);
void scatter(const Call& call);

} // namespace device
} // namespace carafe

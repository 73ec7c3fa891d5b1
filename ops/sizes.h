// SPDX-License-Identifier: Apache-2.0
// The sizes that a caller gives, what shapes follow from them, and the Problem that they make.
// For hosts: the kernels see Problems alone.
#pragma once

#include "problem.h"

namespace carafe {

struct Sizes {
  int64_t batch, channels, in_h, in_w, kernel_size, group_size, scale_factor;
  bool down; // the map: see reassembly.h

  int64_t phases() const { return down ? 1 : scale_factor; }
  int64_t step() const { return down ? scale_factor : 1; }
  int64_t cells(int64_t size) const { return ceil_div(size, step()); }
  int64_t out_h() const { return cells(in_h) * phases(); }
  int64_t out_w() const { return cells(in_w) * phases(); }
  int64_t mask_channels() const { return group_size * kernel_size * kernel_size; }
  int64_t logit_channels() const { return mask_channels() * phases() * phases(); }
};

// All of a problem but its tensors.
inline Problem make_problem(const Sizes& sizes, bool softmax, bool wide) {
  Problem p{};
  p.softmax = softmax;
  p.wide = wide;
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
  return p;
}

// Masks [N, G*k*k, H', W'] or, if `softmax`, logits [N, G*k*k*phases*phases, cells].
inline MaskView mask_view(const TensorView& view, const Problem& p) {
  const int64_t* stride = view.stride;
  const int64_t entry = logit_channel(1, p.softmax ? p.phases : 1, 0, 0) * stride[1];
  MaskView masks{
      {view.data, view.dtype}, stride[0], mask_channel(1, mask_entries(p), 0) * entry, entry, 0, 0, 0, 0};
  masks.phase_row = p.softmax ? logit_channel(0, p.phases, 1, 0) * stride[1] : stride[2];
  masks.phase_column = p.softmax ? stride[1] : stride[3];
  masks.cell_row = p.softmax ? stride[2] : stride[2] * p.phases;
  masks.cell_column = p.softmax ? stride[3] : stride[3] * p.phases;
  return masks;
}

} // namespace carafe

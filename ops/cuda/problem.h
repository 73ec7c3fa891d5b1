// SPDX-License-Identifier: Apache-2.0
// What travels from the host to the CUDA kernels: plain data, no torch.
#pragma once

#include <cstdint>

#include "../reassembly.h"
#include "../tensor_view.h"

namespace carafe {

// Masks or logits, as [image, group, entry, phase row, phase column, cell row,
// cell column]: which of the two they are is a matter of strides alone.
struct WeightView {
  void* data = nullptr;
  Dtype dtype = Dtype::kFloat;
  int64_t image = 0, group = 0, entry = 0; // strides, in elements
  int64_t phase_row = 0, phase_column = 0;
  int64_t cell_row = 0, cell_column = 0;
};

struct Problem {
  TensorView features; // [N, C, H, W]
  TensorView output; // [N, C, cells_h*phases, cells_w*phases]
  WeightView weights; // masks, or logits if `softmax`
  WeightView grad_weights; // what correlate writes
  bool softmax;
  bool wide; // sums in float64
  int64_t batch, channels, groups;
  int64_t in_h, in_w, cells_h, cells_w;
  int64_t kernel_size, phases, step;
  int64_t multiprocessors; // of the device; small maps are cut finer to fill it
  // Scratch of scatter with softmax, of stats_bytes(): the largest logit and
  // 1 / sum of each softmax.
  void* stats;

  CARAFE_HD_MEMBER int64_t group_channels() const { return channels / groups; }
  CARAFE_HD_MEMBER int64_t pixels() const { return cells_h * cells_w * phases * phases; }
  int64_t stats_bytes() const {
    return softmax ? 2 * batch * groups * pixels() * (wide ? 8 : 4) : 0;
  }
};

// Masks [N, G*k*k, H', W'] or logits [N, G*k*k*p*p, cells] as weights.
inline WeightView weight_view(const TensorView& view, bool softmax, int64_t entries, int64_t phases) {
  const int64_t* stride = view.stride;
  const int64_t next = logit_channel(1, softmax ? phases : 1, 0, 0) * stride[1];
  WeightView weights{view.data, view.dtype, stride[0], entries * next, next};
  weights.phase_row = softmax ? logit_channel(0, phases, 1, 0) * stride[1] : stride[2];
  weights.phase_column = softmax ? stride[1] : stride[3];
  weights.cell_row = softmax ? stride[2] : stride[2] * phases;
  weights.cell_column = softmax ? stride[3] : stride[3] * phases;
  return weights;
}

// The kernel that ran, null where it does not serve the problem; a cudaError_t.
struct Launched {
  const char* kernel = nullptr;
  int error = 0;
};

// What a problem may need beyond kernels, and only its host can do.
struct Host {
  // The problem with features and output whose rows are dense: copies of what is
  // read, and a stand-in for what is written, which `finish` copies back.
  virtual Problem in_rows(const Problem& problem) = 0;
  virtual void finish() = 0;
  virtual void* scratch(int64_t bytes) = 0;

protected:
  ~Host() = default;
};

// The best kernel for the problem. `stream` is a cudaStream_t.
Launched reassemble(const Problem& problem, void* stream, Host& host);
Launched correlate(const Problem& problem, void* stream, Host& host);
Launched scatter(const Problem& problem, void* stream, Host& host);

// The sizes that the kernels for dense rows are compiled for.
inline bool is_specialised(const Problem& p) {
  return (p.kernel_size == 5 && (p.phases == 1 || p.phases == 2)) || (p.kernel_size == 3 && p.phases == 2);
}

// Kernels that serve every problem,
Launched reassemble_generic(const Problem& problem, void* stream);
Launched correlate_generic(const Problem& problem, void* stream);
Launched scatter_generic(const Problem& problem, void* stream);
// those for channels_last tensors,
Launched reassemble_last(const Problem& problem, void* stream);
Launched correlate_last(const Problem& problem, void* stream);
Launched scatter_last(const Problem& problem, void* stream);
// and those for dense rows, the up map and few (kernel size, scale factor).
Launched reassemble_planar(const Problem& problem, void* stream);
Launched correlate_planar(const Problem& problem, void* stream);
Launched scatter_planar(const Problem& problem, void* stream);
// In 16 bits, on tensor cores: dense rows, (5, 2).
Launched reassemble_tensor(const Problem& problem, void* stream);

} // namespace carafe

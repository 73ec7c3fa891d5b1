// SPDX-License-Identifier: Apache-2.0
// What travels from the host to the kernels. Plain data: the per-instruction-set
// objects include neither torch nor std containers (see NOTES.md).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../reassembly.h"
#include "../tensor_view.h"

namespace carafe {

struct Params {
  TensorView features; // [N, C, H, W]
  TensorView output; // [N, C, cells_h*phases, cells_w*phases]
  TensorView masks; // [N, G*k*k, output size], or logits if `softmax`
  TensorView grad_masks; // as masks; what correlate writes

  int64_t batch, channels, groups, in_h, in_w;
  int64_t cells_h, cells_w;
  int64_t kernel_size, phases, step;
  bool softmax; // masks are logits [N, G*k*k*phases*phases, cells_h, cells_w]

  // Set by the plan function of an operator.
  int64_t rows, columns; // of cells; of features in scatter
  int64_t tile_w; // columns of an item
  int64_t tiles;
  int64_t chunk_h; // rows of an item
  int64_t chunks;
  int64_t split_channels; // channels of an item
  int64_t splits; // items that share the channels of a group
  int64_t block_channels; // channels packed together
  int64_t items;
  int64_t item_work; // multiply-adds, about
  size_t scratch_bytes; // per thread
};

// `plan` cuts the work into items and says how much scratch a thread needs;
// `run` computes items begin .. end-1 in scratch aligned to 64 bytes. Items
// write disjoint parts of the result, and no sum is split over items: the
// result does not depend on how items are spread over threads.
struct Operator {
  void (*plan)(Params& params, int64_t threads);
  void (*run)(const Params& params, int64_t begin, int64_t end, void* scratch);
};

struct KernelTable {
  const char* isa;
  Operator reassemble[2]; // accumulation in float, in double
  Operator correlate[2];
  Operator scatter[2];
};

extern const KernelTable kernels_baseline;
#if defined(__x86_64__)
extern const KernelTable kernels_avx2;
extern const KernelTable kernels_avx512;
extern const KernelTable kernels_avx512_bf16;
#endif

// The table for this machine; CARAFE_CPU_ISA=baseline|avx2|avx512|avx512_bf16
// overrides.
const KernelTable& kernels();

} // namespace carafe

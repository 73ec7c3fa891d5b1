// SPDX-License-Identifier: Apache-2.0
// The CPU kernels as the host sees them. Plain data: the objects of the instruction
// sets include neither torch nor std containers (README.md says why).
#pragma once

#include <cstddef>
#include <cstdint>

#include "../problem.h"

namespace carafe {

constexpr int64_t kCacheLine = 64; // bytes

// How the work of a problem is cut into items. An item takes some rows, columns and
// channels of one group of one image; "of an item" means of the largest.
struct Plan {
  int64_t rows, columns; // of cells; of features in scatter
  int64_t tile_w; // columns of an item
  int64_t tiles;
  int64_t chunk_h; // rows of an item
  int64_t chunks;
  int64_t split_channels; // channels of an item
  int64_t splits; // items that share the channels of a group
  int64_t packed_channels; // channels packed together, of an item's
  int64_t items;
  int64_t item_work; // multiply-adds, about
  size_t scratch_bytes; // per thread
};

// `plan` cuts the work into items and says how much scratch a thread needs;
// `run` computes items begin .. end-1 in scratch aligned to a cache line. Items
// write disjoint parts of the result, and no sum is split over items: the
// result does not depend on how items are spread over threads.
struct Kernel {
  Plan (*plan)(const Problem& problem, int64_t threads);
  void (*run)(const Problem& problem, const Plan& plan, int64_t begin, int64_t end, void* scratch);
};

// The kernels of one instruction set, each with sums in float32 and in float64.
struct KernelTable {
  const char* isa;
  int64_t vector_bytes;
  Kernel reassemble[2];
  Kernel reassemble_last[2]; // lanes are channels
  Kernel correlate[2];
  Kernel scatter[2];
};

// select.cpp: the table for this machine, and the kernel in it that serves a problem.
const KernelTable& kernels();
const Kernel& select_reassemble(const Problem& problem);
const Kernel& select_correlate(const Problem& problem);
const Kernel& select_scatter(const Problem& problem);

} // namespace carafe

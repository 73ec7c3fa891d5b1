// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels as the host sees them: plain data, no torch.
#pragma once

#include <cstdint>

#include "../problem.h"

namespace carafe {

// The kernel that ran, null where it does not serve the problem; a cudaError_t.
struct Launched {
  const char* kernel = nullptr;
  int error = 0;
};

// What a problem may need beyond kernels, and only its host can do.
struct Host {
  Host(void* stream, int64_t multiprocessors) : stream(stream), multiprocessors(multiprocessors) {}

  // The problem with features and output whose rows are dense: copies of what is
  // read, and a stand-in for what is written, which `finish` copies back.
  virtual Problem in_rows(const Problem& problem) = 0;
  virtual void finish() = 0;
  virtual void* scratch(int64_t bytes) = 0; // once

  void* const stream; // a cudaStream_t
  const int64_t multiprocessors; // of the device; small maps are cut finer to fill it

protected:
  ~Host() = default;
};

// select.cpp: by the best kernel for the problem.
Launched reassemble(const Problem& problem, Host& host);
Launched correlate(const Problem& problem, Host& host);
Launched scatter(const Problem& problem, Host& host);

// The sizes (kernel size, phases) that the kernels for dense rows are compiled for.
constexpr int kPlanarSizes[][2] = {{5, 2}, {3, 2}, {5, 1}};

inline bool is_specialised(const Problem& p) {
  for (const auto& size : kPlanarSizes)
    if (p.kernel_size == size[0] && p.phases == size[1])
      return true;
  return false;
}

// Kernels that serve every problem,
Launched reassemble_generic(const Problem& problem, Host& host);
Launched correlate_generic(const Problem& problem, Host& host);
Launched scatter_generic(const Problem& problem, Host& host);
// what others of them need beside logits: for each mask its largest logit and the scale of its
// exponentials, by group and output pixel, a cudaError_t;
int softmax_stats(const Problem& problem, Host& host, const float*& stats);
// those for channels_last tensors,
Launched reassemble_last(const Problem& problem, Host& host);
Launched correlate_last(const Problem& problem, Host& host);
Launched scatter_last(const Problem& problem, Host& host);
// and those for dense rows, the up map and kPlanarSizes.
Launched reassemble_planar(const Problem& problem, Host& host);
Launched correlate_planar(const Problem& problem, Host& host);
Launched scatter_planar(const Problem& problem, Host& host);
// In 16 bits, on tensor cores: dense rows, (5, 2).
Launched reassemble_tensor(const Problem& problem, Host& host);

} // namespace carafe

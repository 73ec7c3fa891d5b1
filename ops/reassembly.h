// SPDX-License-Identifier: Apache-2.0
// Index arithmetic of the operators, the same on CPU and CUDA.
//
// Output pixels are grouped into cells. A cell shares one centre in the
// features, and holds phases x phases output pixels:
//   up map (CARAFE):      phases = s, step = 1: centre i = i' div s
//   down map (CARAFE++):  phases = 1, step = s: centre i = i' * s
// Every kernel is written in terms of (phases, step), so the map needs no
// second set of files.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define CARAFE_HD static __host__ __device__ __forceinline__
#define CARAFE_HD_STATIC static __host__ __device__
#else
// Internal linkage: each instruction set compiles its own copy, and the linker
// must never be free to keep the AVX-512 one for everybody.
#define CARAFE_HD static inline __attribute__((always_inline, unused))
#define CARAFE_HD_STATIC static
#endif

namespace carafe {

CARAFE_HD int64_t ceil_div(int64_t a, int64_t b) { // b > 0, any sign of a
  return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

CARAFE_HD int64_t floor_div(int64_t a, int64_t b) { // b > 0, any sign of a
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Feature coordinate that tap `tap` (0 .. k-1) of a cell reads; it may lie
// outside the map, where the features are zero.
CARAFE_HD int64_t tap_position(int64_t cell, int64_t step, int64_t tap, int64_t radius) {
  return cell * step + tap - radius;
}

// The tap with which `cell` reads feature coordinate `position`; outside
// 0 .. k-1 where it does not.
CARAFE_HD int64_t tap_at(int64_t position, int64_t cell, int64_t step, int64_t radius) {
  return position - cell * step + radius;
}

// First and last cell with a tap on feature coordinate `position`, not yet
// clipped to the cells that exist; the scatter kernel gathers from them.
CARAFE_HD int64_t first_cell(int64_t position, int64_t step, int64_t radius) {
  return ceil_div(position - radius, step);
}
CARAFE_HD int64_t last_cell(int64_t position, int64_t step, int64_t radius) {
  return floor_div(position + radius, step);
}

// Channel of the masks [N, G*k*k, H', W'] that holds entry `entry` of `group`.
CARAFE_HD int64_t mask_channel(int64_t group, int64_t entries, int64_t entry) {
  return group * entries + entry;
}

// Channel of the logits [N, G*k*k*p*p, cells] (order of pixel_shuffle).
CARAFE_HD int64_t logit_channel(int64_t mask_channel, int64_t phases, int64_t row, int64_t column) {
  return (mask_channel * phases + row) * phases + column;
}

} // namespace carafe

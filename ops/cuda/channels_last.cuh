// SPDX-License-Identifier: Apache-2.0
// What the kernels for channels_last share: masks in shared memory, four channels to a thread.
#pragma once

#include "block.cuh"

namespace carafe {

constexpr int kLastThreads = 256;
constexpr int kLastWarps = kLastThreads / kWarp;
constexpr int kSharers = 8; // lanes that share a softmax
constexpr int kQuad = 4; // channels of a thread

struct LastParams {
  Problem problem;
  Cut cut;
  int kernel_size, entries, phases, phases2, step; // of the problem, in the width that divides fast
  int table; // floats before the masks in shared memory: where the pixels of a cell lie
};

// A rectangle of cells, some perhaps outside the map.
struct Cells {
  int y, x, height, width;
};

template <typename T>
CARAFE_DEVICE void load_quad(float* value, const T* source, Dtype dtype) {
  if constexpr (sizeof(T) == 4) {
    const float4 quad = load_global(reinterpret_cast<const float4*>(source));
    value[0] = quad.x, value[1] = quad.y, value[2] = quad.z, value[3] = quad.w;
  } else {
    const uint2 quad = load_global(reinterpret_cast<const uint2*>(source));
    value[0] = widen(uint16_t(quad.x), dtype), value[1] = widen(uint16_t(quad.x >> 16), dtype);
    value[2] = widen(uint16_t(quad.y), dtype), value[3] = widen(uint16_t(quad.y >> 16), dtype);
  }
}

template <typename T>
CARAFE_DEVICE void store_quad(T* target, const float* value, Dtype dtype) {
  if constexpr (sizeof(T) == 4) {
    store_global(reinterpret_cast<float4*>(target), make_float4(value[0], value[1], value[2], value[3]));
  } else {
    const uint32_t low = narrow(value[0], dtype) | uint32_t(narrow(value[1], dtype)) << 16;
    const uint32_t high = narrow(value[2], dtype) | uint32_t(narrow(value[3], dtype)) << 16;
    store_global(reinterpret_cast<uint2*>(target), make_uint2(low, high));
  }
}

// The address of channel 0 of a group at a pixel.
template <typename T>
CARAFE_DEVICE T*
pixel_of(const TensorView& view, const LastParams& a, const Block& block, int64_t y, int64_t x) {
  return static_cast<T*>(view.data) + block.image * view.stride[0] +
      (block.group * a.cut.group_channels + block.first_channel) + y * view.stride[2] + x * view.stride[3];
}

// `body(offset, index)` for every weight of the masks of some cells: its place in the tensor, -1
// for a cell outside the map, and in shared memory. A lane keeps its entries and
// phases, and a warp goes from cell to cell, so that few divisions are left.
// Neighbouring lanes are neighbours in channels_last logits.
template <typename Body>
CARAFE_DEVICE void for_each_weight(
    const LastParams& a, const MaskView& masks, const Block& block, const Cells& cells, Body body) {
  const int of_cell = a.entries * a.phases2, count = cells.height * cells.width;
  for (int index = int(threadIdx.x) % kWarp; index < of_cell; index += kWarp) {
    const int entry = index / a.phases2, phase = index % a.phases2;
    const int64_t first = block.image * masks.image + block.group * masks.group + entry * masks.entry +
        phase / a.phases * masks.phase_row + phase % a.phases * masks.phase_column;
#pragma unroll 4
    for (int cell = int(threadIdx.x) / kWarp; cell < count; cell += kLastWarps) {
      const int y = cells.y + cell / cells.width, x = cells.x + cell % cells.width;
      const bool inside = y >= 0 && y < a.problem.cells_h && x >= 0 && x < a.problem.cells_w;
      body(inside ? first + y * masks.cell_row + x * masks.cell_column : -1, cell * of_cell + index);
    }
  }
}

// kSharers lanes share a softmax: `body(first, lane)` for each, first its entry 0
// in the arrays and lane 0 .. kSharers-1. Every lane of a warp comes along, for the sums.
template <typename Body>
CARAFE_DEVICE void for_each_softmax(const LastParams& a, int cells, Body body) {
  for (int pair = 0; pair < cells * a.phases2; pair += kLastThreads / kSharers) {
    const int own = pair + int(threadIdx.x) / kSharers;
    const bool real = own < cells * a.phases2;
    const int first = real ? own / a.phases2 * a.entries * a.phases2 + own % a.phases2 : 0;
    body(first, int(threadIdx.x) % kSharers, real ? a.entries : 0, a.phases2);
  }
}

CARAFE_DEVICE float sum_of_sharers(float value) {
#pragma unroll
  for (int mask = 1; mask < kSharers; mask *= 2)
    value += shuffle_xor(value, mask);
  return value;
}

// Where the output pixels of a cell lie, from its first one. Before a barrier.
CARAFE_DEVICE void stage_table(int* table, const LastParams& a) {
  const int64_t* stride = a.problem.output.stride;
  for (int i = int(threadIdx.x); i < a.phases2; i += kLastThreads)
    table[i] = int(i / a.phases * stride[2] + i % a.phases * stride[3]);
}

template <typename T>
CARAFE_DEVICE void
stage_masks_as(float* shared, const LastParams& a, const Block& block, const Cells& cells) {
  const MaskView& masks = a.problem.masks;
  const T* data = static_cast<const T*>(masks.data);
  for_each_weight(a, masks, block, cells, [=](int64_t offset, int index) {
    const float value = load_element(data + (offset < 0 ? 0 : offset), masks.dtype); // without a branch
    shared[index] = offset < 0 ? 0.f : value;
  });
}

// Bring the masks of some cells to shared memory; ends with a barrier.
CARAFE_DEVICE void stage_masks(float* shared, const LastParams& a, const Block& block, const Cells& cells) {
  const Problem& p = a.problem;
  const int count = cells.height * cells.width;
  if (p.masks.dtype == Dtype::kFloat)
    stage_masks_as<float>(shared, a, block, cells);
  else
    stage_masks_as<uint16_t>(shared, a, block, cells);
  __syncthreads();
  if (!p.softmax)
    return;
  for_each_softmax(a, count, [=](int first, int lane, int entries, int stride) {
    float largest = -INFINITY, sum = 0;
    for (int t = lane; t < entries; t += kSharers)
      largest = fmaxf(largest, shared[first + t * stride]);
#pragma unroll
    for (int mask = 1; mask < kSharers; mask *= 2)
      largest = fmaxf(largest, shuffle_xor(largest, mask));
    for (int t = lane; t < entries; t += kSharers) {
      const float value = expf(shared[first + t * stride] - largest);
      shared[first + t * stride] = value;
      sum += value;
    }
    const float scale = 1 / sum_of_sharers(sum);
    for (int t = lane; t < entries; t += kSharers)
      shared[first + t * stride] *= scale;
  });
  __syncthreads();
}

// The weights of kPhases phases, side by side in shared memory.
template <int kPhases>
CARAFE_DEVICE void read_weights(float* value, const float* shared) {
  if constexpr (kPhases == 4) {
    const float4 quad = *reinterpret_cast<const float4*>(shared);
    value[0] = quad.x, value[1] = quad.y, value[2] = quad.z, value[3] = quad.w;
  } else {
    value[0] = *shared;
  }
}

// Four channels of the feature under a tap, zeros outside the map.
template <typename T>
CARAFE_DEVICE void load_feature(float* value, const T* source, bool inside, Dtype dtype) {
  value[0] = value[1] = value[2] = value[3] = 0;
  if (inside)
    load_quad(value, source, dtype);
}

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// What the kernels for channels_last share. Included by channels_last.cu only.
#pragma once

#include "device.h"

namespace carafe {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kQuad = 4; // channels of a thread

struct LastParams {
  Problem problem;
  int width, height; // of a tile: cells, in scatter features
  int columns, rows; // tiles
  int group_channels, split_channels, splits;
  int kernel_size, entries, phases, phases2, step; // of the problem, in the width that divides fast
  int table; // floats before the weights in shared memory: where the pixels of a cell lie
};

struct Block {
  int64_t image, group;
  int y, x, first_channel;
};

CARAFE_DEVICE Block block_at(const LastParams& a) {
  unsigned rest = blockIdx.x;
  Block block;
  block.x = int(rest % a.columns) * a.width;
  rest /= a.columns;
  block.y = int(rest % a.rows) * a.height;
  rest /= a.rows;
  block.first_channel = int(rest % a.splits) * a.split_channels;
  rest /= a.splits;
  block.group = rest % unsigned(a.problem.groups);
  block.image = rest / unsigned(a.problem.groups);
  return block;
}

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
      (block.group * a.group_channels + block.first_channel) + y * view.stride[2] + x * view.stride[3];
}

// `body(offset, index)` for every weight of some cells: its place in the tensor, -1
// for a cell outside the map, and in shared memory. A lane keeps its entries and
// phases, and a warp goes from cell to cell, so that few divisions are left.
// Neighbouring lanes are neighbours in channels_last logits.
template <typename Body>
CARAFE_DEVICE void for_each_weight(
    const LastParams& a, const WeightView& w, const Block& block, const Cells& cells, Body body) {
  const int of_cell = a.entries * a.phases2, count = cells.height * cells.width;
  for (int index = int(threadIdx.x) % 32; index < of_cell; index += 32) {
    const int entry = index / a.phases2, phase = index % a.phases2;
    const int64_t first = block.image * w.image + block.group * w.group + entry * w.entry +
        phase / a.phases * w.phase_row + phase % a.phases * w.phase_column;
#pragma unroll 4
    for (int cell = int(threadIdx.x) / 32; cell < count; cell += kWarps) {
      const int y = cells.y + cell / cells.width, x = cells.x + cell % cells.width;
      const bool inside = y >= 0 && y < a.problem.cells_h && x >= 0 && x < a.problem.cells_w;
      body(inside ? first + y * w.cell_row + x * w.cell_column : -1, cell * of_cell + index);
    }
  }
}

// Eight lanes share a softmax: `body(first, lane)` for each, first its entry 0
// in the arrays and lane 0 .. 7. Every lane of a warp comes along, for the sums.
template <typename Body>
CARAFE_DEVICE void for_each_softmax(const LastParams& a, int cells, Body body) {
  for (int pair = 0; pair < cells * a.phases2; pair += kThreads / 8) {
    const int own = pair + int(threadIdx.x) / 8;
    const bool real = own < cells * a.phases2;
    const int first = real ? own / a.phases2 * a.entries * a.phases2 + own % a.phases2 : 0;
    body(first, int(threadIdx.x) % 8, real ? a.entries : 0, a.phases2);
  }
}

CARAFE_DEVICE float sum_of_8(float value) {
#pragma unroll
  for (int mask = 1; mask < 8; mask *= 2)
    value += shuffle_xor(value, mask);
  return value;
}

// Where the output pixels of a cell lie, from its first one. Before a barrier.
CARAFE_DEVICE void stage_table(int* table, const LastParams& a) {
  const int64_t* stride = a.problem.output.stride;
  for (int i = int(threadIdx.x); i < a.phases2; i += kThreads)
    table[i] = int(i / a.phases * stride[2] + i % a.phases * stride[3]);
}

template <typename T>
CARAFE_DEVICE void
stage_weights_as(float* shared, const LastParams& a, const Block& block, const Cells& cells) {
  const WeightView& w = a.problem.weights;
  const T* data = static_cast<const T*>(w.data);
  for_each_weight(a, w, block, cells, [=](int64_t offset, int index) {
    const float value = load_element(data + (offset < 0 ? 0 : offset), w.dtype); // without a branch
    shared[index] = offset < 0 ? 0.f : value;
  });
}

// Bring the weights of some cells to shared memory; ends with a barrier.
CARAFE_DEVICE void
stage_weights(float* shared, const LastParams& a, const Block& block, const Cells& cells) {
  const Problem& p = a.problem;
  const int count = cells.height * cells.width;
  if (p.weights.dtype == Dtype::kFloat)
    stage_weights_as<float>(shared, a, block, cells);
  else
    stage_weights_as<uint16_t>(shared, a, block, cells);
  __syncthreads();
  if (!p.softmax)
    return;
  for_each_softmax(a, count, [=](int first, int lane, int entries, int stride) {
    float largest = -INFINITY, sum = 0;
    for (int t = lane; t < entries; t += 8)
      largest = fmaxf(largest, shared[first + t * stride]);
#pragma unroll
    for (int mask = 1; mask < 8; mask *= 2)
      largest = fmaxf(largest, shuffle_xor(largest, mask));
    for (int t = lane; t < entries; t += 8) {
      const float value = expf(shared[first + t * stride] - largest);
      shared[first + t * stride] = value;
      sum += value;
    }
    const float scale = 1 / sum_of_8(sum);
    for (int t = lane; t < entries; t += 8)
      shared[first + t * stride] *= scale;
  });
  __syncthreads();
}

// kPhases weights side by side in shared memory.
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

} // namespace
} // namespace carafe

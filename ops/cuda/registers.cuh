// SPDX-License-Identifier: Apache-2.0
// One cell in a thread: its masks, K*K entries of P phases, in registers, and
// its output pixels.
#pragma once

#include "device.h"

namespace carafe {

constexpr int kStages = 4; // channels that have a place in shared memory: all but one are under way

template <int K, int P>
using CellMasks = float[K * K][P];

// P phases of a cell, of its S*S ones, in their order.
template <int K, int S, int P, typename T>
CARAFE_DEVICE void load_masks_as(CellMasks<K, P>& w, const MaskView& view, int64_t offset, int first_phase) {
  const T* entry = static_cast<const T*>(view.data) + offset;
#pragma unroll
  for (int t = 0; t < K * K; ++t, entry += view.entry) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int row = (first_phase + p) / S, column = (first_phase + p) % S;
      w[t][p] = load_element(entry + (row * view.phase_row + column * view.phase_column), view.dtype);
    }
  }
}

// Softmax over the entries, for each phase.
template <int K, int P>
CARAFE_DEVICE void normalise(CellMasks<K, P>& w) {
#pragma unroll
  for (int p = 0; p < P; ++p) {
    float largest = w[0][p];
#pragma unroll
    for (int t = 1; t < K * K; ++t)
      largest = fmaxf(largest, w[t][p]);
    float sum = 0;
#pragma unroll
    for (int t = 0; t < K * K; ++t) {
      w[t][p] = expf(w[t][p] - largest);
      sum += w[t][p];
    }
    const float scale = 1 / sum;
#pragma unroll
    for (int t = 0; t < K * K; ++t)
      w[t][p] *= scale;
  }
}

// Masks as they are, logits through softmax; zeros where the cell does not exist.
template <int K, int S, int P>
CARAFE_DEVICE void load_masks(
    CellMasks<K, P>& w,
    const MaskView& view,
    bool softmax,
    bool exists,
    int64_t offset, // of entry 0, phase (0, 0)
    int first_phase = 0) {
  if (!exists) {
#pragma unroll
    for (int t = 0; t < K * K; ++t)
#pragma unroll
      for (int p = 0; p < P; ++p)
        w[t][p] = 0;
    return;
  }
  if (view.dtype == Dtype::kFloat)
    load_masks_as<K, S, P, float>(w, view, offset, first_phase);
  else
    load_masks_as<K, S, P, uint16_t>(w, view, offset, first_phase);
  if (softmax)
    normalise<K, P>(w);
}

// N neighbouring values of shared memory that are aligned as a whole.
template <int N, typename T>
CARAFE_DEVICE void load_shared(float* value, const T* from, Dtype dtype) {
  if constexpr (sizeof(T) == 4 && N == 4) {
    const float4 quad = *reinterpret_cast<const float4*>(from);
    value[0] = quad.x, value[1] = quad.y, value[2] = quad.z, value[3] = quad.w;
  } else if constexpr (sizeof(T) == 4 && N == 2) {
    const float2 pair = *reinterpret_cast<const float2*>(from);
    value[0] = pair.x, value[1] = pair.y;
  } else if constexpr (N == 1) {
    value[0] = as_float(*from, dtype);
  } else if constexpr (N == 2) {
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(from);
    value[0] = widen(uint16_t(pair), dtype), value[1] = widen(uint16_t(pair >> 16), dtype);
  } else {
    static_assert(N == 4);
    const uint2 quad = *reinterpret_cast<const uint2*>(from);
    value[0] = widen(uint16_t(quad.x), dtype), value[1] = widen(uint16_t(quad.x >> 16), dtype);
    value[2] = widen(uint16_t(quad.y), dtype), value[3] = widen(uint16_t(quad.y >> 16), dtype);
  }
}

// Output pixels of a thread, kRows rows of kPixels, channel after channel on their way through
// shared memory. Each thread reads what it copied itself, so no barrier.
template <int kPixels, int kRows, typename T, int kThreads>
struct OutputPipe {
  static constexpr int kRow = kThreads * kPixels, kStage = kRows * kRow; // elements
  static constexpr int kBytes = kStages * kStage * int(sizeof(T));

  T* const ring; // [kStages][kRows][kThreads][kPixels], from this thread on
  const T* source; // the first pixel in the next channel to fetch
  const int row_stride;
  const int64_t channel_stride;
  const int channels; // none where the thread has no cell

  __device__ OutputPipe(void* shared, const TensorView& output, const T* first, int channels)
      : ring(static_cast<T*>(shared) + int(threadIdx.x) * kPixels),
        source(first),
        row_stride(int(output.stride[2])),
        channel_stride(output.stride[1]),
        channels(channels) {
    if (channels == 0) // and these zeros stay
      for (int row = 0; row < kStages * kRows; ++row)
        for (int i = 0; i < kPixels; ++i)
          ring[row * kRow + i] = 0;
  }

  // Begin to bring the next channel; the caller commits.
  __device__ void fetch(int stage, int channel) {
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      if (channel < channels) {
        T* const to = ring + stage * kStage + row * kRow;
        if constexpr (kPixels * sizeof(T) >= 4)
          copy_async<kPixels* int(sizeof(T))>(to, source + row * row_stride);
        else
          *to = load_global(source + row * row_stride);
      }
    source += channel_stride;
  }

  // A channel, once its copies are waited for.
  __device__ void read(int stage, float* value, Dtype dtype) const { // [kRows][kPixels]
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      load_shared<kPixels>(value + row * kPixels, ring + stage * kStage + row * kRow, dtype);
  }
};

// body(stage, channel) for every channel; the stage, channel % kStages, is a constant in each
// copy of the body.
template <typename Body>
CARAFE_DEVICE void for_each_channel(int channels, Body body) {
#pragma unroll 1
  for (int first = 0; first < channels; first += kStages)
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage) {
      if (first + stage >= channels)
        return;
      body(stage, first + stage);
    }
}

// N neighbours in a row of a result of ours, which is dense and aligned.
template <int N, typename T>
CARAFE_DEVICE void store_row(T* target, const float* value, Dtype dtype) {
  static_assert(N == 1 || N == 2 || N == 4);
  const auto pair = [=](int i) {
    return narrow(value[i], dtype) | uint32_t(narrow(value[i + 1], dtype)) << 16;
  };
  if constexpr (N == 1)
    store_element(target, dtype, value[0]);
  else if constexpr (N == 2 && sizeof(T) == 4)
    store_global(reinterpret_cast<float2*>(target), make_float2(value[0], value[1]));
  else if constexpr (N == 4 && sizeof(T) == 4)
    store_global(reinterpret_cast<float4*>(target), make_float4(value[0], value[1], value[2], value[3]));
  else if constexpr (N == 2)
    store_global(reinterpret_cast<uint32_t*>(target), pair(0));
  else
    store_global(reinterpret_cast<uint2*>(target), make_uint2(pair(0), pair(2)));
}

} // namespace carafe

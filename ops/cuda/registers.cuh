// SPDX-License-Identifier: Apache-2.0
// One cell in a thread: its masks, K*K entries of P phases, in registers, and
// its output pixels.
#pragma once

#include "device.h"

namespace carafe {

// Channels under way, in registers; channels that have a place in shared memory.
constexpr int kAhead = 2, kStages = 2;
static_assert(kStages % kAhead == 0);

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

// N neighbouring values on their way from global memory, as they lie there.
template <typename T, int N>
struct Chunk {
  static constexpr int kBytes = N * int(sizeof(T)); // the address is aligned to that
  uint32_t words[kBytes < 4 ? 1 : kBytes / 4];

  __device__ void load(const T* from, bool wanted) { // else zeros
    *this = {};
    if (wanted)
      load(from);
  }

  __device__ void load(const T* from) {
    if constexpr (kBytes == 16) {
      const float4 quad = load_global(reinterpret_cast<const float4*>(from));
      words[0] = __float_as_uint(quad.x), words[1] = __float_as_uint(quad.y);
      words[2] = __float_as_uint(quad.z), words[3] = __float_as_uint(quad.w);
    } else if constexpr (kBytes == 8) {
      const uint2 pair = load_global(reinterpret_cast<const uint2*>(from));
      words[0] = pair.x, words[1] = pair.y;
    } else if constexpr (kBytes == 4) {
      words[0] = load_global(reinterpret_cast<const uint32_t*>(from));
    } else {
      words[0] = load_global(from);
    }
  }

  __device__ float value(int i, Dtype dtype) const {
    if constexpr (sizeof(T) == 4)
      return __uint_as_float(words[i]);
    else
      return widen(uint16_t(i % 2 ? words[i / 2] >> 16 : words[i / 2]), dtype);
  }

  __device__ void store_shared(float* to, Dtype dtype) const {
    if constexpr (N == 4)
      *reinterpret_cast<float4*>(to) = make_float4(
          value(0, dtype), value(1, dtype), value(2, dtype), value(3, dtype));
    else if constexpr (N == 2)
      *reinterpret_cast<float2*>(to) = make_float2(value(0, dtype), value(1, dtype));
    else
      *to = value(0, dtype);
  }
};

// Output pixels of a thread, kRows rows of kPixels, kAhead channels ahead.
template <int kPixels, int kRows, typename T>
struct OutputPipe {
  const T* source; // the first one in the next channel to load
  const int row_stride;
  const int64_t channel_stride;
  const int channels; // none where the thread has no cell: zeros
  Chunk<T, kPixels> ring[kAhead][kRows];

  __device__ OutputPipe(const TensorView& output, const T* first, int channels)
      : source(first),
        row_stride(int(output.stride[2])),
        channel_stride(output.stride[1]),
        channels(channels) {
#pragma unroll
    for (int c = 0; c < kAhead; ++c)
      load(c, c);
  }

  // Begin to load the next channel.
  __device__ void load(int stage, int channel) {
#pragma unroll
    for (int row = 0; row < kRows; ++row)
      ring[stage % kAhead][row].load(source + row * row_stride, channel < channels);
    source += channel_stride;
  }

  // Take the channel that arrived, and begin to load what comes in its place.
  __device__ void take(int stage, int channel, float* value, Dtype dtype) { // [kRows][kPixels]
#pragma unroll
    for (int i = 0; i < kRows * kPixels; ++i)
      value[i] = ring[stage % kAhead][i / kPixels].value(i % kPixels, dtype);
    load(stage, channel + kAhead);
  }
};

// body(stage, channel) for every channel, and for a few past the last one, whose values are zeros.
// The stage, channel % kStages, is a constant in each copy of the body, so that rings stay in
// registers.
template <typename Body>
CARAFE_DEVICE void for_each_channel(int channels, Body body) {
#pragma unroll 1
  for (int first = 0; first < channels; first += kStages)
#pragma unroll
    for (int stage = 0; stage < kStages; ++stage)
      body(stage, first + stage);
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

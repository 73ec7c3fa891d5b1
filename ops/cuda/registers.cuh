// SPDX-License-Identifier: Apache-2.0
// One cell in a thread: its masks, K*K entries of P phases, in registers, and
// its output pixels.
#pragma once

#include "device.h"

namespace carafe {

constexpr int kStages = 4; // channels under way

template <int K, int P>
using CellMasks = float[K * K][P];

// P = S*S phases of a cell, or one of them.
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

// The S*S output pixels of each thread's cell, channel after channel, on their
// way through shared memory: kStages - 1 channels are under way, which registers
// could not hold. Each thread reads what it copied itself, so no barrier.
template <int S, typename T>
struct OutputPipe {
  T* ring; // [kStages][S][threads][S]
  const T* source; // of the thread's cell in the next channel to fetch
  int64_t row_stride, channel_stride;
  bool together; // one copy moves the S pixels of a row
  bool exists;

  CARAFE_HD_STATIC int64_t shared_bytes(int64_t threads) { return kStages * threads * S * S * sizeof(T); }

  __device__ T* place(int c, int row) const {
    return ring + ((c % kStages * S + row) * int(blockDim.x) + int(threadIdx.x)) * S;
  }

  // Begin to bring channel c; the caller commits. Zeros where it is not `wanted`.
  __device__ void fetch(int c, bool wanted) {
    const bool valid = exists && wanted;
#pragma unroll
    for (int row = 0; row < S; ++row) {
      T* target = place(c, row);
      const T* from = valid ? source + row * row_stride : source;
      if (sizeof(T) * S >= 4 && together) {
        copy_async<(sizeof(T) * S >= 4 ? int(sizeof(T)) * S : 4)>(target, from, valid);
      } else {
#pragma unroll
        for (int i = 0; i < S; ++i) {
          if (sizeof(T) == 4)
            copy_async<4>(target + i, from + i, valid);
          else
            target[i] = valid ? load_global(from + i) : T(0);
        }
      }
    }
    source += wanted ? channel_stride : 0;
  }

  // Channel c, once its copies are waited for.
  __device__ void read(int c, float* value, Dtype dtype) const { // [S*S]
#pragma unroll
    for (int i = 0; i < S * S; ++i) {
      const T element = place(c, i / S)[i % S];
      if constexpr (sizeof(T) == 4)
        value[i] = element;
      else
        value[i] = widen(element, dtype);
    }
  }
};

// A row of a result of ours, which is dense and aligned.
template <int S, typename T>
CARAFE_DEVICE void store_row(T* target, const float* value, Dtype dtype) {
  if constexpr (S == 2 && sizeof(T) == 4) {
    store_global(reinterpret_cast<float2*>(target), make_float2(value[0], value[1]));
  } else if constexpr (S == 2) {
    const uint32_t pair = narrow(value[0], dtype) | uint32_t(narrow(value[1], dtype)) << 16;
    store_global(reinterpret_cast<uint32_t*>(target), pair);
  } else {
#pragma unroll
    for (int i = 0; i < S; ++i)
      store_element(target + i, dtype, value[i]);
  }
}

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// C for dense rows: the features' gradient.
#include "planar.cuh"

namespace carafe {
namespace {

// (5, 2) takes more registers than 512 threads could have.
constexpr int kMostThreads = 384;

// The tile is what a block writes; the cells that it reads reach `halo` further,
// unless the tile spans the map.
struct ScatterParams {
  Problem problem;
  Cut cut;
  bool together; // the pixels of an output row can be read S at a time
  int halo_y, halo_x;
  int width; // cells of a row
  int warp_rows; // rows of cells of a warp
};

// A thread owns a source cell: masks in registers, its output gradient from
// global memory, each value read once. For one row of taps at a time it makes K
// products, which shuffles add along the row of cells; the K rows meet in shared
// memory, where the thread of a feature pixel adds them, always in one order. No
// two threads write one place, there are no atomics. Two sets of buffers let one
// barrier a channel do.
template <int K, int S, typename T>
__global__ void __launch_bounds__(kMostThreads, 1) scatter_planar_kernel(const ScatterParams a) {
  CARAFE_SHARED(shared); // the OutputPipe; [2][K][rows][width] of cells
  constexpr int r = K / 2;
  const Problem& p = a.problem;
  const int width = a.width;
  const Block block = block_at(a.cut, p);
  const int lane = int(threadIdx.x) % kWarp;
  const int column = lane % width, row = int(threadIdx.x) / kWarp * a.warp_rows + lane / width;
  const bool active = lane / width < a.warp_rows;
  const int rows = int(blockDim.x) / kWarp * a.warp_rows, size = rows * width;
  const int y = block.y + row - a.halo_y, x = block.x + column - a.halo_x;
  const bool exists = active && y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
  const bool owns = exists && row >= a.halo_y && row < rows - a.halo_y && column >= a.halo_x &&
      column < width - a.halo_x;

  CellMasks<K, S * S> w;
  load_masks<K, S, S * S>(w, p.masks, p.softmax, exists, mask_offset(p.masks, block, y, x));

  const int64_t first = block.group * a.cut.group_channels + block.first_channel;
  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  const T* source = static_cast<const T*>(p.output.data) + block.image * p.output.stride[0] +
      first * p.output.stride[1];
  OutputPipe<S, T> output{
      reinterpret_cast<T*>(shared),
      exists ? source + y * S * p.output.stride[2] + x * S : source,
      p.output.stride[2],
      p.output.stride[1],
      a.together,
      exists};
  float* buffers = shared + OutputPipe<S, T>::shared_bytes(blockDim.x) / sizeof(float);
  for (int c = 0; c < kStages - 1; ++c) {
    output.fetch(c, c < channels);
    commit_copies();
  }
  T* target = static_cast<T*>(p.features.data) + block.image * p.features.stride[0] +
      first * p.features.stride[1] + y * p.features.stride[2] + x;
#pragma unroll 1
  for (int c = 0; c < channels; ++c) {
    wait_copies<kStages - 2>();
    float grad[S * S];
    output.read(c, grad, p.output.dtype);
    output.fetch(c + kStages - 1, c + kStages - 1 < channels);
    commit_copies();
    float* sums = buffers + c % 2 * K * size;
#pragma unroll
    for (int i = 0; i < K; ++i) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < K; ++j) {
        float product = 0;
#pragma unroll
        for (int phase = 0; phase < S * S; ++phase)
          product += w[i * K + j][phase] * grad[phase];
        // Tap j of the cell that has this column under it.
        const int from = int(tap_at(column, 0, 1, r)) - j;
        const float value = j == r ? product : shuffle(product, lane + from - column);
        if (from >= 0 && from < width)
          sum += value;
      }
      if (active)
        sums[i * size + row * width + column] = sum;
    }
    __syncthreads();
    if (owns) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < K; ++i) {
        const int from = row + r - i;
        if (from >= 0 && from < rows)
          sum += sums[i * size + from * width + column];
      }
      store_element(target, p.features.dtype, sum);
    }
    target += p.features.stride[1];
  }
}

template <int K, int S, typename T>
struct ScatterPlanar {
  static Launched launch(const Problem& p, Host& host) {
    constexpr int r = K / 2, kMostWarps = kMostThreads / kWarp;
    ScatterParams a{p};
    Cut& cut = a.cut;
    a.together = pixels_together(p);
    a.width = int(min_of(p.in_w, kWarp));
    a.warp_rows = kWarp / a.width;
    a.halo_x = p.in_w > kWarp ? r : 0;
    const int64_t whole = ceil_div(p.in_h, a.warp_rows); // warps that the map's height takes
    a.halo_y = whole > kMostWarps ? r : 0;
    cut.width = a.width - 2 * a.halo_x;
    cut.columns = int(ceil_div(p.in_w, cut.width));
    cut.rows = int(ceil_div(p.in_h, min_of(whole, kMostWarps) * a.warp_rows - 2 * a.halo_y));
    // As high as the others: fewer warps.
    const int64_t height = ceil_div(p.in_h, cut.rows) + 2 * a.halo_y;
    const int warps = int(ceil_div(height, a.warp_rows));
    cut.height = warps * a.warp_rows - 2 * a.halo_y;
    choose_splits(cut, p, host.multiprocessors, kMostThreads / (warps * kWarp));
    const int64_t bytes = int64_t(sizeof(float)) * 2 * K * warps * a.warp_rows * a.width +
        OutputPipe<S, T>::shared_bytes(warps * kWarp);
    return {
        "scatter_planar",
        carafe::launch(
            scatter_planar_kernel<K, S, T>, block_count(cut, p), warps * kWarp, bytes, host.stream, a)};
  }
};

} // namespace

Launched scatter_planar(const Problem& p, Host& host) { return specialised<ScatterPlanar>(p, host); }

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// C for dense rows: the features' gradient.
#include <type_traits>

#include "planar.cuh"

namespace carafe {
namespace {

// The tile is what a block writes; the cells that it reads reach `halo` further,
// unless the tile spans the map.
struct ScatterParams {
  Problem problem;
  Cut cut;
  int halo_y, halo_x;
  int width; // cells of a row
  int warp_rows; // rows of cells of a warp
};

// What the registers of (5, 2) allow.
constexpr int kThreads = 384, kWarps = kThreads / kWarp;
// Sums of one row of taps, for all cells of a block, and rows of zeros above and below.
template <int K>
constexpr int kPositions = kThreads + K / 2 * 2 * kWarp;

// A thread owns a source cell: masks in registers, its output gradient from
// global memory, each value read once. For one row of taps at a time it makes K
// products, which shuffles add along the row of cells; the K rows meet in shared
// memory, where the thread of a feature pixel adds them, always in one order. No
// two threads write one place, there are no atomics. Two sets of buffers let one
// barrier a channel do.
template <int K, int S, typename T>
__global__ void __launch_bounds__(kThreads, 1) scatter_planar_kernel(const ScatterParams a) {
  CARAFE_SHARED(shared); // the OutputPipe; [2][K][kPositions]
  constexpr int r = K / 2, kSet = kPositions<K>;
  const Problem& p = a.problem;
  const int width = a.width;
  const Block block = block_at(a.cut, p);
  const int lane = int(threadIdx.x) % kWarp, warp_row = int(threadIdx.x) / kWarp * a.warp_rows;
  const int column = lane % width, row = warp_row + lane / width;
  const bool active = lane / width < a.warp_rows;
  const int rows = int(blockDim.x) / kWarp * a.warp_rows;
  const int y = block.y + row - a.halo_y, x = block.x + column - a.halo_x;
  const bool exists = active && y >= 0 && y < p.in_h && x >= 0 && x < p.in_w;
  const bool owns = exists && row >= a.halo_y && row < rows - a.halo_y && column >= a.halo_x &&
      column < width - a.halo_x;
  // Rows of taps by which this warp reaches a row that the block writes.
  const int first_tap = a.halo_y + r - (warp_row + a.warp_rows - 1), end_tap = rows - a.halo_y + r - warp_row;
  bool beside[K]; // whether tap j of some cell of the row has this column under it
#pragma unroll
  for (int j = 0; j < K; ++j)
    beside[j] = column + r - j >= 0 && column + r - j < width;

  const int64_t first = block.group * a.cut.group_channels + block.first_channel;
  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  const T* source = static_cast<const T*>(p.output.data) + block.image * p.output.stride[0] +
      first * p.output.stride[1];
  source += exists ? y * S * p.output.stride[2] + x * S : 0;
  using Pipe = OutputPipe<S, S, T, kThreads>;
  Pipe output(shared, p.output, source, exists ? channels : 0);
  for (int c = 0; c < kStages - 1; ++c) {
    output.fetch(c, c);
    commit_copies();
  }
  float* const buffers = shared + Pipe::kBytes / sizeof(float);
  for (int i = int(threadIdx.x); i < 2 * K * kSet; i += int(blockDim.x))
    buffers[i] = 0;

  CellMasks<K, S * S> w;
  load_masks<K, S, S * S>(w, p.masks, p.softmax, exists, mask_offset(p.masks, block, y, x));

  float* const own = buffers + (r + row) * width + column;
  T* target = static_cast<T*>(p.features.data) + block.image * p.features.stride[0] +
      first * p.features.stride[1] + y * p.features.stride[2] + x;
  __syncthreads();
  const auto pass = [&](auto whole) { // whether every row of taps is wanted
    for_each_channel(channels, [&](int stage, int c) {
      float grad[S * S];
      wait_copies<kStages - 2>();
      output.read(stage, grad, p.output.dtype);
      output.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
      commit_copies();
      float* const sums = own + stage % 2 * (K * kSet);
#pragma unroll
      for (int i = 0; i < K; ++i) {
        if (!decltype(whole)::value && (i < first_tap || i >= end_tap))
          continue;
        float products[K] = {};
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
          for (int phase = 0; phase < S * S; ++phase)
            products[j] += w[i * K + j][phase] * grad[phase];
        float sum = products[r];
#pragma unroll
        for (int j = 0; j < K; ++j) {
          const float value = shuffle_by(products[j], r - j);
          if (j != r && beside[j])
            sum += value;
        }
        if (active)
          sums[i * kSet] = sum;
      }
      __syncthreads();
      if (owns) {
        float sum = 0;
#pragma unroll
        for (int i = 0; i < K; ++i)
          sum += sums[i * kSet + (r - i) * width];
        store_element(target, p.features.dtype, sum);
      }
      target += p.features.stride[1];
    });
  };
  if (first_tap <= 0 && end_tap >= K)
    pass(std::true_type{});
  else
    pass(std::false_type{});
}

template <int K, int S, typename T>
struct ScatterPlanar {
  static Launched launch(const Problem& p, Host& host) {
    constexpr int r = K / 2;
    ScatterParams a{p};
    Cut& cut = a.cut;
    a.width = int(min_of(p.in_w, kWarp));
    a.warp_rows = kWarp / a.width;
    a.halo_x = p.in_w > kWarp ? r : 0;
    const int64_t whole = ceil_div(p.in_h, a.warp_rows); // warps that the map's height takes
    a.halo_y = whole > kWarps ? r : 0;
    cut.width = a.width - 2 * a.halo_x;
    cut.columns = int(ceil_div(p.in_w, cut.width));
    cut.rows = int(ceil_div(p.in_h, min_of(whole, kWarps) * a.warp_rows - 2 * a.halo_y));
    // As high as the others: fewer warps.
    const int64_t height = ceil_div(p.in_h, cut.rows) + 2 * a.halo_y;
    const int warps = int(ceil_div(height, a.warp_rows));
    cut.height = warps * a.warp_rows - 2 * a.halo_y;
    choose_splits(cut, p, host.multiprocessors, kWarps / warps);
    constexpr int64_t kBytes = int64_t(sizeof(float)) * 2 * K * kPositions<K> +
        OutputPipe<S, S, T, kThreads>::kBytes;
    return {
        "scatter_planar",
        carafe::launch(
            scatter_planar_kernel<K, S, T>, block_count(cut, p), warps * kWarp, kBytes, host.stream, a)};
  }
};

} // namespace

Launched scatter_planar(const Problem& p, Host& host) { return specialised<ScatterPlanar>(p, host); }

} // namespace carafe

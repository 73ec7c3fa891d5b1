// SPDX-License-Identifier: Apache-2.0
// C for dense rows: the features' gradient.
#include "planar.cuh"

namespace carafe {
namespace {

// A lane has E feature pixels side by side and one row of the phases of every cell that reaches
// them: the lanes of the other rows add theirs at the end of a channel.
template <int K, int S, typename Shape>
struct Reach {
  static constexpr int kPixels = S == 2 ? 2 : 1, kParts = S;
  static constexpr int kCells = K + kPixels - 1; // of a row, that reach one of the pixels
  static constexpr int kAcross = Shape::kWidth / kPixels; // lanes
  static_assert(kPixels == kParts, "a lane ends one pixel");

  const int column = int(threadIdx.x) % kWarp % kAcross * kPixels; // of the first pixel in the tile
  const int row = int(threadIdx.x) % kWarp / kAcross % Shape::kHeight;
  const int part = int(threadIdx.x) % kWarp / (kAcross * Shape::kHeight);
};

// Weights by which the cells around reach a lane's pixels: [pixel][tap][phase of the row]. Of
// logits the exponentials' scales, which others of their softmax decide, are in `stats`.
template <int K, int S, typename Shape, typename T>
CARAFE_DEVICE void load_weights(
    float (&w)[Reach<K, S, Shape>::kPixels][K * K][S],
    const Problem& p,
    const Block& block,
    const Reach<K, S, Shape>& own,
    const float* stats) {
  constexpr int r = K / 2, kPixels = Reach<K, S, Shape>::kPixels;
  const MaskView& masks = p.masks;
  const int y = block.y + own.row + r, x = block.x + own.column + r; // of the cell with tap 0 there
  const auto inside = [&](int i, int pixel, int j) {
    const int cell_y = y - i, cell_x = x + pixel - j;
    return cell_y >= 0 && cell_y < p.cells_h && cell_x >= 0 && cell_x < p.cells_w;
  };
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const T* const row = static_cast<const T*>(masks.data) + mask_offset(masks, block, y - i, x) +
        i * K * masks.entry + own.part * masks.phase_row;
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel) {
        const T* const entry = row + j * masks.entry + (pixel - j) * masks.cell_column;
#pragma unroll
        for (int phase = 0; phase < S; ++phase)
          w[pixel][i * K + j][phase] =
              inside(i, pixel, j) ? load_element(entry + phase * masks.phase_column, masks.dtype) : 0.f;
      }
  }
  if (!p.softmax)
    return;
  const int64_t width = p.cells_w * S;
#pragma unroll
  for (int i = 0; i < K; ++i) {
    const float* const row = stats +
        2 * ((block.image * p.groups + block.group) * output_pixels(p) + ((y - i) * S + own.part) * width +
             x * S);
#pragma unroll
    for (int j = 0; j < K; ++j)
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel)
#pragma unroll
        for (int phase = 0; phase < S; ++phase)
          if (inside(i, pixel, j)) {
            const float* const stat = row + 2 * ((pixel - j) * S + phase);
            float& weight = w[pixel][i * K + j][phase];
            weight = expf(weight - load_global(stat)) * load_global(stat + 1);
          }
  }
}

// The gradient of the output under a warp's tile of pixels passes by, channel after channel, as
// the features do in the other operators; the weights stay in registers. No two threads write
// one place, there are no atomics, and every sum has one order.
template <int K, int S, typename T, typename Shape>
__global__ void __launch_bounds__(kPlanarThreads, kPlanarResident)
    scatter_planar_kernel(const PlanarParams a, const float* stats) {
  CARAFE_SHARED(shared);
  using Tile = WarpTile<S, K, Shape>;
  using Own = Reach<K, S, Shape>;
  constexpr int r = K / 2, kPixels = Own::kPixels;
  const Problem& p = a.problem;
  const int warp = int(threadIdx.x) / kWarp;
  const unsigned index = blockIdx.x * kPlanarWarps + warp;
  if (index >= a.tiles)
    return;
  const Block block = block_at(a.cut, p, index);
  const Own own;
  const int y = block.y + own.row, x = block.x + own.column + own.part; // what this lane writes
  const bool exists = y < p.in_h && x < p.in_w;

  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  TilePipe<Tile, T> pipe(
      p.output, block, block.group * a.cut.group_channels + block.first_channel, channels,
      int(p.cells_h) * S, int(p.cells_w) * S, shared + warp * TilePipe<Tile, T>::kFloats);
  for (int c = 0; c < kStages - 1; ++c)
    pipe.fetch(c, c);

  float w[kPixels][K * K][S];
  if (p.masks.dtype == Dtype::kFloat)
    load_weights<K, S, Shape, float>(w, p, block, own, stats);
  else
    load_weights<K, S, Shape, uint16_t>(w, p, block, own, stats);

  T* target = static_cast<T*>(p.features.data) + block.image * p.features.stride[0] +
      (block.group * a.cut.group_channels + block.first_channel) * p.features.stride[1] +
      y * p.features.stride[2] + x;
  const int corner = Tile::place(own.row, own.column) + own.part * Tile::kPitch;
  for_each_channel(channels, [&](int stage, int c) {
    const float* grads = pipe.arrive(stage) + corner;
    // To where the channel before was, which nobody reads any more.
    pipe.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
    float sum[kPixels][S] = {};
#pragma unroll
    for (int i = 0; i < K; ++i) {
      float window[Own::kCells * S];
      load_window<Own::kCells * S, Tile::kAlignment>(window, grads + (2 * r - i) * S * Tile::kPitch);
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel)
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
          for (int phase = 0; phase < S; ++phase)
            sum[pixel][phase] += w[pixel][i * K + j][phase] * window[(pixel + 2 * r - j) * S + phase];
    }
    float total = sum[0][0];
    if constexpr (S == 2) {
      const float own_part[2] = {sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]};
      total = (own.part ? own_part[1] : own_part[0]) +
          shuffle_xor(own.part ? own_part[0] : own_part[1], kWarp / 2);
    }
    if (exists)
      store_element(target, p.features.dtype, total);
    target += p.features.stride[1];
  });
}

template <int K, int S, typename T>
struct ScatterPlanar {
  template <typename Shape>
  static Launched launch_shaped(const Problem& p, Host& host, const float* stats) {
    PlanarParams a{p, cut_by<Shape>(p)};
    choose_splits(a.cut, p, host.multiprocessors, kPlanarResident * kPlanarWarps);
    const int64_t tiles = block_count(a.cut, p);
    a.tiles = unsigned(tiles);
    return {
        "scatter_planar",
        carafe::launch(
            scatter_planar_kernel<K, S, T, Shape>, ceil_div(tiles, kPlanarWarps), kPlanarThreads,
            sizeof(float) * kPlanarWarps * TilePipe<WarpTile<S, K, Shape>, T>::kFloats, host.stream, a,
            stats)};
  }

  static Launched launch(const Problem& p, Host& host) {
    const float* stats = nullptr;
    if (p.softmax) {
      const int error = softmax_stats(p, host, stats);
      if (error)
        return {"scatter_planar", error};
    }
    const bool by_4 = divides(p.output, p.cells_w * S, 4);
    const auto tiles = [&p](int width, int height) {
      return ceil_div(p.in_w, width) * ceil_div(p.in_h, height);
    };
    if constexpr (S == 1)
      return by_4 ? launch_shaped<Shape<8, 4, 4>>(p, host, stats) : launch_shaped<Shape<8, 4, 1>>(p, host, stats);
    else if (tiles(16, 2) < tiles(8, 4))
      return by_4 ? launch_shaped<Shape<16, 2, 4>>(p, host, stats)
                  : launch_shaped<Shape<16, 2, 2>>(p, host, stats);
    else
      return by_4 ? launch_shaped<Shape<8, 4, 4>>(p, host, stats)
                  : launch_shaped<Shape<8, 4, 2>>(p, host, stats);
  }
};

} // namespace

Launched scatter_planar(const Problem& p, Host& host) { return specialised<ScatterPlanar>(p, host); }

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// C for dense rows: the features' gradient.
#include <type_traits>

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

  template <Dtype kDtype>
  using Element = std::conditional_t<kDtype == Dtype::kFloat, float, uint16_t>;
  // The gradient of the output under the tile of a warp.
  template <typename T>
  using Tile = WarpTile<S, K, Shape, S == 2 && sizeof(T) == 4>;

  const int column = int(threadIdx.x) % kWarp % kAcross * kPixels; // of the first pixel in the tile
  const int row = int(threadIdx.x) % kWarp / kAcross % Shape::kHeight;
  const int part = int(threadIdx.x) % kWarp / (kAcross * Shape::kHeight);
};

// Weights by which the cells around reach a lane's pixels: [pixel][tap][phase of the row].
template <int K, int S, typename Shape>
struct Weights {
  using Own = Reach<K, S, Shape>;
  static constexpr int r = K / 2;

  float w[Own::kPixels][K * K][S];
  const int y, x, part; // the cells: y - i, x + m
  bool rows[K], columns[Own::kCells]; // whether they exist

  __device__ Weights(const Problem& p, const Block& block, const Own& own, const float* stats)
      : y(block.y + own.row + r), x(block.x + own.column - r), part(own.part) {
#pragma unroll
    for (int i = 0; i < K; ++i)
      rows[i] = y - i >= 0 && y - i < p.cells_h;
#pragma unroll
    for (int m = 0; m < Own::kCells; ++m)
      columns[m] = x + m >= 0 && x + m < p.cells_w;
    const int64_t first = mask_offset(p.masks, block, 0, 0) + part * p.masks.phase_row;
    if (p.masks.dtype == Dtype::kFloat)
      load(p.masks, static_cast<const float*>(p.masks.data) + first);
    else
      load(p.masks, static_cast<const uint16_t*>(p.masks.data) + first);
    if (p.softmax)
      normalise(stats + 2 * (block.image * p.groups + block.group) * output_pixels(p), int(p.cells_w) * S);
  }

  template <typename T>
  __device__ void load(const MaskView& masks, const T* data) {
    const int entry = int(masks.entry), cell_row = int(masks.cell_row), cell_column = int(masks.cell_column);
    const int phase_column = int(masks.phase_column);
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int pixel = 0; pixel < Own::kPixels; ++pixel)
#pragma unroll
        for (int j = 0; j < K; ++j) {
          const int m = pixel + 2 * r - j;
          const int offset = (y - i) * cell_row + x * cell_column + (i * K + j) * entry + m * cell_column;
#pragma unroll
          for (int phase = 0; phase < S; ++phase)
            w[pixel][i * K + j][phase] = rows[i] && columns[m]
                ? load_element(data + (offset + phase * phase_column), masks.dtype)
                : 0.f;
        }
  }

  // Of logits: what else their softmax needs to know of its others.
  __device__ void normalise(const float* map, int width) {
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int m = 0; m < Own::kCells; ++m)
#pragma unroll
        for (int phase = 0; phase < S; ++phase)
          if (rows[i] && columns[m]) {
            const int index = ((y - i) * S + part) * width + (x + m) * S + phase;
            const float2 stat = load_global(reinterpret_cast<const float2*>(map) + index);
#pragma unroll
            for (int pixel = 0; pixel < Own::kPixels; ++pixel) {
              const int j = pixel + 2 * r - m;
              if (j >= 0 && j < K)
                w[pixel][i * K + j][phase] = expf(w[pixel][i * K + j][phase] - stat.x) * stat.y;
            }
          }
  }
};

// The gradient of the output under a warp's tile of pixels passes by, channel after channel, as
// the features do in the other operators; the weights stay in registers. No two threads write
// one place, there are no atomics, and every sum has one order.
// 16 bits stay as they are in shared memory, whose bandwidth is the limit here.
template <int K, int S, Dtype kDtype, typename Shape>
__global__ void __launch_bounds__(kPlanarThreads, kPlanarResident)
    scatter_planar_kernel(const PlanarParams a, const float* stats) {
  CARAFE_SHARED(shared);
  using Own = Reach<K, S, Shape>;
  using T = typename Own::template Element<kDtype>;
  using Tile = typename Own::template Tile<T>;
  using Pipe = TilePipe<Tile, T, false>;
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
  Pipe pipe(
      p.output, block, block.group * a.cut.group_channels + block.first_channel, channels, int(p.cells_h) * S,
      int(p.cells_w) * S, shared + warp * Pipe::kFloats);
  for (int c = 0; c < kStages - 1; ++c)
    pipe.fetch(c, c);

  const Weights<K, S, Shape> weights(p, block, own, stats);
  T* target = static_cast<T*>(p.features.data) + block.image * p.features.stride[0] +
      (block.group * a.cut.group_channels + block.first_channel) * p.features.stride[1] +
      y * p.features.stride[2] + x;
  const int corner = Tile::place(own.row, own.column) + own.part * Tile::kPitch;
  for_each_channel(channels, [&](int stage, int c) {
    const T* const grads = pipe.arrive(stage) + corner;
    // To where the channel before was, which nobody reads any more.
    pipe.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
    float sum[kPixels][S] = {};
#pragma unroll
    for (int i = 0; i < K; ++i) {
      float window[Own::kCells * S];
      load_window<Own::kCells * S, Tile::kAlignment>(window, grads + (2 * r - i) * S * Tile::kPitch, kDtype);
#pragma unroll
      for (int pixel = 0; pixel < kPixels; ++pixel)
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
          for (int phase = 0; phase < S; ++phase)
            sum[pixel][phase] += weights.w[pixel][i * K + j][phase] * window[(pixel + 2 * r - j) * S + phase];
    }
    float total = sum[0][0];
    if constexpr (S == 2) {
      const float own_part[2] = {sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]};
      total = (own.part ? own_part[1] : own_part[0]) +
          shuffle_xor(own.part ? own_part[0] : own_part[1], kWarp / 2);
    }
    if (exists)
      store_element(target, kDtype, total);
    target += p.features.stride[1];
  });
}

template <int K, int S, Dtype kDtype>
struct ScatterOf {
  template <typename Shape>
  static Launched launch_shaped(const Problem& p, Host& host, const float* stats) {
    using Own = Reach<K, S, Shape>;
    using T = typename Own::template Element<kDtype>;
    using Pipe = TilePipe<typename Own::template Tile<T>, T, false>;
    PlanarParams a{p, cut_by<Shape>(p)};
    choose_splits(
        a.cut, p, host.multiprocessors, kPlanarResident * kPlanarWarps,
        p.softmax ? 2 * kMaskTime : kMaskTime);
    const int64_t tiles = block_count(a.cut, p);
    a.tiles = unsigned(tiles);
    return {
        "scatter_planar",
        carafe::launch(
            scatter_planar_kernel<K, S, kDtype, Shape>, ceil_div(tiles, kPlanarWarps), kPlanarThreads,
            sizeof(float) * kPlanarWarps * Pipe::kFloats, host.stream, a, stats)};
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
      return by_4 ? launch_shaped<Shape<8, 4, 4>>(p, host, stats)
                  : launch_shaped<Shape<8, 4, 1>>(p, host, stats);
    else if (tiles(16, 2) < tiles(8, 4))
      return by_4 ? launch_shaped<Shape<16, 2, 4>>(p, host, stats)
                  : launch_shaped<Shape<16, 2, 2>>(p, host, stats);
    else
      return by_4 ? launch_shaped<Shape<8, 4, 4>>(p, host, stats)
                  : launch_shaped<Shape<8, 4, 2>>(p, host, stats);
  }
};

template <int K, int S, typename T>
struct ScatterPlanar {
  static Launched launch(const Problem& p, Host& host) {
    if constexpr (sizeof(T) == 4)
      return ScatterOf<K, S, Dtype::kFloat>::launch(p, host);
    else if (p.features.dtype == Dtype::kHalf)
      return ScatterOf<K, S, Dtype::kHalf>::launch(p, host);
    else
      return ScatterOf<K, S, Dtype::kBFloat16>::launch(p, host);
  }
};

} // namespace

Launched scatter_planar(const Problem& p, Host& host) { return specialised<ScatterPlanar>(p, host); }

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// A for dense rows: output = sum over the taps of masks * features.
#include "planar.cuh"

namespace carafe {
namespace {

// The masks of a thread's cells stay in registers while the channels pass by. A warp
// owns a tile of 32 cells, a group, and some of its channels.
template <int K, int S, typename T, typename Shape>
__global__ void __launch_bounds__(kPlanarThreads, kPlanarResident)
    reassemble_planar_kernel(const PlanarParams a) {
  CARAFE_SHARED(shared);
  using Own = Share<K, S, Shape>;
  using Tile = typename Own::Tile;
  using Pipe = typename Own::template Pipe<T>;
  constexpr int kPhases = Own::kPhases;
  const Problem& p = a.problem;
  const int warp = int(threadIdx.x) / kWarp;
  const unsigned index = blockIdx.x * kPlanarWarps + warp;
  if (index >= a.tiles)
    return;
  const Block block = block_at(a.cut, p, index);
  const Own own;
  const int y = block.y + own.row, x = block.x + own.column;
  const bool exists = y < p.cells_h && x < p.cells_w;

  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  const int64_t first_channel = block.group * a.cut.group_channels + block.first_channel;
  Pipe pipe(
      p.features, block, first_channel, channels, int(p.in_h), int(p.in_w), shared + warp * Pipe::kFloats);

  for (int c = 0; c < kStages - 1; ++c)
    pipe.fetch(c, c);

  CellMasks<K, kPhases> w[Own::kCells];
#pragma unroll
  for (int cell = 0; cell < Own::kCells; ++cell)
    load_masks<K, S, kPhases>(
        w[cell], p.masks, p.softmax, exists, mask_offset(p.masks, block, y, x + cell), own.part * kPhases);

  T* target = static_cast<T*>(p.output.data) + block.image * p.output.stride[0] +
      first_channel * p.output.stride[1] + (y * S + own.part) * p.output.stride[2] + x * S;
  const int row_stride = int(p.output.stride[2]);
  for_each_channel(channels, [&](int stage, int c) {
    const float* features = pipe.arrive(stage) + Tile::place(own.row, own.column);
    // To where the channel before was, which nobody reads any more.
    pipe.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
    float sum[Own::kRows][Own::kCells][S] = {};
#pragma unroll
    for (int i = 0; i < K; ++i) {
      float window[Own::kWindow];
      load_window<Own::kWindow, Own::kCells>(window, features + i * Tile::kPitch, Dtype::kFloat);
#pragma unroll
      for (int cell = 0; cell < Own::kCells; ++cell)
#pragma unroll
        for (int j = 0; j < K; ++j)
#pragma unroll
          for (int phase = 0; phase < kPhases; ++phase)
            sum[phase / S][cell][phase % S] += w[cell][i * K + j][phase] * window[cell + j];
    }
    if (exists) {
#pragma unroll
      for (int r = 0; r < Own::kRows; ++r)
        store_row<Own::kPixels>(target + r * row_stride, sum[r][0], p.output.dtype);
    }
    target += p.output.stride[1];
  });
}

template <int K, int S, typename T>
struct ReassemblePlanar {
  static Launched launch(const Problem& p, Host& host) {
    return with_shape(p, [&](auto shape) -> Launched {
      using Shape = decltype(shape);
      PlanarParams a{p, cut_by<Shape>(p)};
      choose_splits(a.cut, p, host.multiprocessors, kPlanarResident * kPlanarWarps);
      const int64_t tiles = block_count(a.cut, p);
      a.tiles = unsigned(tiles);
      return {
          "reassemble_planar",
          carafe::launch(
              reassemble_planar_kernel<K, S, T, Shape>, ceil_div(tiles, kPlanarWarps), kPlanarThreads,
              sizeof(float) * kPlanarWarps * Share<K, S, Shape>::template Pipe<T>::kFloats, host.stream, a)};
    });
  }
};

} // namespace

Launched reassemble_planar(const Problem& p, Host& host) { return specialised<ReassemblePlanar>(p, host); }

} // namespace carafe

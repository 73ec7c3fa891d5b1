// SPDX-License-Identifier: Apache-2.0
// A for dense rows: y = sum over the taps of weights * features.
#include "planar.cuh"

namespace carafe {
namespace {

// A thread owns a cell: its K*K*S*S weights stay in registers while the
// channels pass by, K*K reads of shared memory for K*K*S*S multiply-adds. A
// block owns a tile of at most 128 cells, a group, and some of its channels.
template <int K, int S, typename T>
__global__ void __launch_bounds__(kPlanarThreads, 3) reassemble_planar_kernel(const PlanarParams a) {
  CARAFE_SHARED(shared);
  const Problem& p = a.problem;
  const Tile& tile = a.tile;
  const Block block = block_at(a);
  int row = int(threadIdx.x) / tile.width, column = int(threadIdx.x) % tile.width;
  const int y = block.y + row, x = block.x + column;
  const bool exists = row < tile.height && y < p.cells_h && x < p.cells_w;
  // Of the last warps of a tile at the lower border no thread has a cell.
  const int warp_row = int(threadIdx.x) / kWarp * kWarp / tile.width;
  const bool idle = warp_row >= tile.height || block.y + warp_row >= p.cells_h;
  if (!exists)
    row = column = 0;

  FeaturePipe<T, 1> pipe(a, block, shared);
  const int left = a.group_channels - block.first_channel;
  const int channels = left < a.split_channels ? left : a.split_channels;
  for (int c = 0; c < kStages - 1; ++c)
    pipe.fetch(c);

  CellWeights<K, S * S> w;
  load_weights<K, S, S * S>(w, p.weights, p.softmax, exists, weight_offset(p.weights, block, y, x));

  T* target = static_cast<T*>(p.output.data) + block.image * p.output.stride[0] +
      (block.group * a.group_channels + block.first_channel) * p.output.stride[1] +
      y * S * p.output.stride[2] + x * S;
  const int corner = row * tile.pitch + column + tile.margin - K / 2;
#pragma unroll 1
  for (int c = 0; c < channels; ++c) {
    pipe.arrive(c);
    pipe.fetch(c + kStages - 1); // where channel c-1 was, which nobody reads any more
    if (idle)
      continue;
    const float* features = pipe.tiles(c) + corner;
    float sum[S * S] = {};
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const float feature = features[i * tile.pitch + j];
#pragma unroll
        for (int phase = 0; phase < S * S; ++phase)
          sum[phase] += w[i * K + j][phase] * feature;
      }
    if (exists) {
#pragma unroll
      for (int phase = 0; phase < S; ++phase)
        store_row<S>(target + phase * p.output.stride[2], sum + phase * S, p.output.dtype);
    }
    target += p.output.stride[1];
  }
}

template <int K, int S, typename T>
struct ReassemblePlanar {
  static Launched launch(const Problem& p, void* stream) {
    PlanarParams a{p};
    if (!pixels_together(p) || !choose_tile(a.tile, p, kPlanarThreads, 1, FeaturePipe<T, 1>::kSlots))
      return {};
    a.group_channels = int(p.group_channels());
    const int64_t tiles = p.batch * p.groups * a.tile.rows * a.tile.columns;
    a.splits = choose_splits(p, tiles, 3);
    a.split_channels = int(ceil_div(a.group_channels, a.splits));
    a.splits = int(ceil_div(a.group_channels, a.split_channels));
    return {
        "reassemble_planar",
        carafe::launch(
            reassemble_planar_kernel<K, S, T>, tiles * a.splits, kPlanarThreads,
            sizeof(float) * FeaturePipe<T, 1>::shared_floats(a.tile), stream, a)};
  }
};

} // namespace

Launched reassemble_planar(const Problem& p, void* stream) {
  return specialised<ReassemblePlanar>(p, stream);
}

} // namespace carafe

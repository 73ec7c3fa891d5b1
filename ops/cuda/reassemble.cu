// SPDX-License-Identifier: Apache-2.0
// A for dense rows: output = sum over the taps of masks * features.
#include "planar.cuh"

namespace carafe {
namespace {

constexpr int kResident = 3; // blocks on a multiprocessor: what the registers of (5, 2) allow

// A thread owns a cell: its K*K*S*S masks stay in registers while the
// channels pass by, K*K reads of shared memory for K*K*S*S multiply-adds. A
// block owns a tile of at most 128 cells, a group, and some of its channels.
template <int K, int S, typename T>
__global__ void __launch_bounds__(kPlanarThreads, kResident) reassemble_planar_kernel(const PlanarParams a) {
  CARAFE_SHARED(shared);
  const Problem& p = a.problem;
  const FeatureTile& tile = a.tile;
  const Block block = block_at(a.cut, p);
  int row = int(threadIdx.x) / a.cut.width, column = int(threadIdx.x) % a.cut.width;
  const int y = block.y + row, x = block.x + column;
  const bool exists = row < a.cut.height && y < p.cells_h && x < p.cells_w;
  // Of the last warps of a tile at the lower border no thread has a cell.
  const int warp_row = int(threadIdx.x) / kWarp * kWarp / a.cut.width;
  const bool idle = warp_row >= a.cut.height || block.y + warp_row >= p.cells_h;
  if (!exists)
    row = column = 0;

  FeaturePipe<T, 1> pipe(a, block, shared);
  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels;
  for (int c = 0; c < kStages - 1; ++c)
    pipe.fetch(c);

  CellMasks<K, S * S> w;
  load_masks<K, S, S * S>(w, p.masks, p.softmax, exists, mask_offset(p.masks, block, y, x));

  T* target = static_cast<T*>(p.output.data) + block.image * p.output.stride[0] +
      (block.group * a.cut.group_channels + block.first_channel) * p.output.stride[1] +
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
  static Launched launch(const Problem& p, Host& host) {
    PlanarParams a{p};
    if (!pixels_together(p) || !choose_tile(a, kPlanarThreads, 1, FeaturePipe<T, 1>::kSlots))
      return {};
    choose_splits(a.cut, p, host.multiprocessors, kResident);
    return {
        "reassemble_planar",
        carafe::launch(
            reassemble_planar_kernel<K, S, T>, block_count(a.cut, p), kPlanarThreads,
            sizeof(float) * FeaturePipe<T, 1>::shared_floats(a.tile), host.stream, a)};
  }
};

} // namespace

Launched reassemble_planar(const Problem& p, Host& host) { return specialised<ReassemblePlanar>(p, host); }

} // namespace carafe

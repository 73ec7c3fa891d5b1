// SPDX-License-Identifier: Apache-2.0
// B for dense rows: the masks' gradient, a sum over channels, and with softmax
// on to the gradient of the logits.
#include "planar.cuh"

namespace carafe {
namespace {

constexpr int kResident = 3; // blocks on a multiprocessor: what the registers of (5, 2) allow
// Small maps leave multiprocessors idle. Fewer tiles than they could hold: the channels go
// to several warps, from kLeastSliced on. Fewer than there are: to more warps, each of
// which still has 8 channels.
constexpr int kFewSlices = 4, kMostSlices = 8;
constexpr int kLeastSliced = 16, kLeastMostSliced = 64;

// P * (gradient - <P, gradient>) for one phase, in place; P is computed anew.
template <int K, int S>
CARAFE_DEVICE void softmax_backward(
    float* gradient, // [K*K]
    const MaskView& logits,
    int64_t offset,
    int phase) {
  CellMasks<K, 1> w;
  load_masks<K, S, 1>(w, logits, true, true, offset, phase);
  float dot = 0;
#pragma unroll
  for (int t = 0; t < K * K; ++t)
    dot += w[t][0] * gradient[t];
#pragma unroll
  for (int t = 0; t < K * K; ++t)
    gradient[t] = w[t][0] * (gradient[t] - dot);
}

template <int K, typename T>
CARAFE_DEVICE void store_entries(const MaskView& g, int64_t offset, const float* gradient) {
  T* target = static_cast<T*>(g.data) + offset;
#pragma unroll
  for (int t = 0; t < K * K; ++t, target += g.entry)
    store_element(target, g.dtype, gradient[t]);
}

template <int K, int S>
CARAFE_DEVICE void
write_gradient(const Problem& p, const Block& block, int y, int x, int phase, float* gradient) {
  if (p.softmax)
    softmax_backward<K, S>(gradient, p.masks, mask_offset(p.masks, block, y, x), phase);
  const MaskView& g = p.grad_masks;
  const int64_t offset = mask_offset(g, block, y, x) + phase / S * g.phase_row + phase % S * g.phase_column;
  if (g.dtype == Dtype::kFloat)
    store_entries<K, float>(g, offset, gradient);
  else
    store_entries<K, uint16_t>(g, offset, gradient);
}

// A thread owns a cell and its K*K*S*S sums; the gradient of the output comes
// straight from global memory, each value read by one thread. kSlices = 1: the
// block is a tile of 128 cells. kSlices > 1, for small maps: a tile of 32,
// each warp takes its part of the channels, and the sums meet in shared memory,
// always in the order of the warps.
template <int K, int S, typename T, int kSlices>
__global__ void __launch_bounds__(FeaturePipe<T, kSlices>::kThreads, kSlices == kMostSlices ? 1 : kResident)
    correlate_planar_kernel(const PlanarParams a) {
  CARAFE_SHARED(shared);
  constexpr int kCells = FeaturePipe<T, kSlices>::kThreads / kSlices;
  const Problem& p = a.problem;
  const FeatureTile& tile = a.tile;
  const Block block = block_at(a.cut, p);
  const int cell = int(threadIdx.x) % kCells, slice = int(threadIdx.x) / kCells;
  int row = cell / a.cut.width, column = cell % a.cut.width;
  const int y = block.y + row, x = block.x + column;
  const bool exists = row < a.cut.height && y < p.cells_h && x < p.cells_w;
  if (!exists)
    row = column = 0;

  FeaturePipe<T, kSlices> pipe(a, block, shared);
  const int left = a.cut.group_channels - slice * a.cut.split_channels;
  const int own = left < a.cut.split_channels ? left : a.cut.split_channels; // channels, perhaps none
  const T* source = static_cast<const T*>(p.output.data) + block.image * p.output.stride[0] +
      (block.group * a.cut.group_channels + (own > 0 ? slice * a.cut.split_channels : 0)) *
          p.output.stride[1];
  OutputPipe<S, T> output{
      reinterpret_cast<T*>(shared + FeaturePipe<T, kSlices>::shared_floats(tile)),
      exists ? source + y * S * p.output.stride[2] + x * S : source,
      p.output.stride[2],
      p.output.stride[1],
      a.together,
      exists};
  for (int c = 0; c < kStages - 1; ++c) {
    output.fetch(c, c < own);
    pipe.fetch(c);
  }
  const int corner = slice * tile.area + row * tile.pitch + column + tile.margin - K / 2;
  float sum[K * K][S * S] = {};
#pragma unroll 1
  for (int c = 0; c < a.cut.split_channels; ++c) {
    pipe.arrive(c);
    float grad[S * S];
    output.read(c, grad, p.output.dtype);
    output.fetch(c + kStages - 1, c + kStages - 1 < own);
    pipe.fetch(c + kStages - 1);
    const float* features = pipe.tiles(c) + corner;
#pragma unroll
    for (int i = 0; i < K; ++i)
#pragma unroll
      for (int j = 0; j < K; ++j) {
        const float feature = features[i * tile.pitch + j];
#pragma unroll
        for (int phase = 0; phase < S * S; ++phase)
          sum[i * K + j][phase] += grad[phase] * feature;
      }
  }

  wait_copies<0>(); // the last ones, of zeros, land where sums may go
  float total[K * K];
#pragma unroll
  for (int phase = 0; phase < S * S; ++phase) {
    if constexpr (kSlices == 1) {
#pragma unroll
      for (int t = 0; t < K * K; ++t)
        total[t] = sum[t][phase];
      if (exists)
        write_gradient<K, S>(p, block, y, x, phase, total);
    } else {
      __syncthreads(); // the tiles, or the sums of the phase before, are read
#pragma unroll
      for (int t = 0; t < K * K; ++t)
        shared[(slice * K * K + t) * kCells + cell] = sum[t][phase];
      __syncthreads();
      if (slice == phase % kSlices) {
#pragma unroll
        for (int t = 0; t < K * K; ++t) {
          total[t] = 0;
#pragma unroll
          for (int s = 0; s < kSlices; ++s)
            total[t] += shared[(s * K * K + t) * kCells + cell];
        }
      }
    }
  }
  if constexpr (kSlices > 1) {
    static_assert(S * S <= kSlices, "a warp ends at most one phase");
    if (exists && slice < S * S)
      write_gradient<K, S>(p, block, y, x, slice, total);
  }
}

template <int K, int S, typename T>
struct CorrelatePlanar {
  template <int kSlices>
  static Launched launch_sliced(const Problem& p, Host& host, const char* name) {
    using Pipe = FeaturePipe<T, kSlices>;
    PlanarParams a{p};
    constexpr int kThreads = Pipe::kThreads;
    if (!choose_tile(a, kThreads / kSlices, kSlices, Pipe::kSlots))
      return {};
    a.cut.group_channels = int(group_channels(p));
    a.cut.split_channels = int(ceil_div(a.cut.group_channels, kSlices));
    a.cut.splits = 1; // a sum over channels is one block's
    a.together = pixels_together(p);
    const int64_t tiles = block_count(a.cut, p);
    if (kSlices == 1 && tiles < kResident * host.multiprocessors && a.cut.group_channels >= kLeastSliced)
      return {};
    if (kSlices == kMostSlices && (tiles > host.multiprocessors || a.cut.group_channels < kLeastMostSliced))
      return {};
    int64_t bytes = sizeof(float) * Pipe::shared_floats(a.tile) + OutputPipe<S, T>::shared_bytes(kThreads);
    const int64_t sums = kSlices == 1 ? 0 : int64_t(sizeof(float)) * K * K * kThreads;
    bytes = bytes > sums ? bytes : sums;
    if (kSlices == kMostSlices && bytes > kMostShared)
      return {};
    return {
        name,
        carafe::launch(correlate_planar_kernel<K, S, T, kSlices>, tiles, kThreads, bytes, host.stream, a)};
  }

  static Launched launch(const Problem& p, Host& host) {
    Launched launched = launch_sliced<1>(p, host, "correlate_planar");
    if (launched.kernel == nullptr)
      launched = launch_sliced<kMostSlices>(p, host, "correlate_planar_sliced_8");
    return launched.kernel ? launched : launch_sliced<kFewSlices>(p, host, "correlate_planar_sliced");
  }
};

} // namespace

Launched correlate_planar(const Problem& p, Host& host) { return specialised<CorrelatePlanar>(p, host); }

} // namespace carafe

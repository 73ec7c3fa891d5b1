// SPDX-License-Identifier: Apache-2.0
// B for dense rows: the masks' gradient, a sum over channels, and with softmax
// on to the gradient of the logits.
#include "planar.cuh"

namespace carafe {
namespace {

// Small maps leave multiprocessors idle. Fewer tiles than warps that they could hold: the
// channels of a tile go to several warps, from kLeastSliced on. Fewer than multiprocessors:
// to more warps, each of which still has 8 channels.
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

template <int kSlices>
constexpr int kThreadsOf = kSlices == 1 ? kPlanarThreads : kSlices * kWarp;

// A thread owns the sums of its cells, K*K*S*S; the gradient of the output comes
// straight from global memory, each value read by one thread. kSlices = 1: a
// warp has a tile. kSlices > 1, for small maps: a block has one, each warp takes
// its part of the channels, and the sums meet in shared memory, always in the
// order of the warps.
template <int K, int S, typename T, typename Shape, int kSlices>
__global__ void __launch_bounds__(kThreadsOf<kSlices>, kSlices == kMostSlices ? 1 : kPlanarResident)
    correlate_planar_kernel(const PlanarParams a) {
  CARAFE_SHARED(shared);
  using Own = Share<K, S, Shape>;
  using Tile = typename Own::Tile;
  using Pipe = typename Own::template Pipe<T>;
  constexpr int kPhases = Own::kPhases;
  const Problem& p = a.problem;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const unsigned index = kSlices == 1 ? blockIdx.x * kPlanarWarps + warp : blockIdx.x;
  if (index >= a.tiles) // of a whole block where its warps will meet
    return;
  Block block = block_at(a.cut, p, index);
  block.first_channel = kSlices == 1 ? 0 : warp * a.cut.split_channels;
  const Own own;
  const int y = block.y + own.row, x = block.x + own.column;
  const bool exists = y < p.cells_h && x < p.cells_w;

  const int left = a.cut.group_channels - block.first_channel;
  const int channels = left < a.cut.split_channels ? left : a.cut.split_channels; // perhaps none
  const int64_t first_channel = block.group * a.cut.group_channels + block.first_channel;
  Pipe pipe(
      p.features, block, first_channel, channels, int(p.in_h), int(p.in_w), shared + warp * Pipe::kFloats);
  const T* source = static_cast<const T*>(p.output.data) + block.image * p.output.stride[0];
  if (exists && channels > 0)
    source += first_channel * p.output.stride[1] + (y * S + own.part) * p.output.stride[2] + x * S;
  OutputPipe<Own::kPixels, Own::kRows, T, kThreadsOf<kSlices>> output(
      shared + kThreadsOf<kSlices> / kWarp * Pipe::kFloats, p.output, source, exists ? channels : 0);
  for (int c = 0; c < kStages - 1; ++c) {
    output.fetch(c, c);
    pipe.fetch(c, c);
  }
  float sum[Own::kCells][kPhases][K * K] = {};
  for_each_channel(channels, [&](int stage, int c) {
    const float* features = pipe.arrive(stage) + Tile::place(own.row, own.column);
    float grad[Own::kRows * Own::kPixels];
    output.read(stage, grad, p.output.dtype);
    output.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
    pipe.fetch((stage + kStages - 1) % kStages, c + kStages - 1);
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
            sum[cell][phase][i * K + j] += grad[phase / S * Own::kPixels + cell * S + phase % S] *
                window[cell + j];
    }
  });

  constexpr int kResults = Own::kCells * kPhases; // of a thread, K * K entries each
  float total[K * K];
#pragma unroll
  for (int i = 0; i < kResults; ++i) {
    const float* part = sum[i / kPhases][i % kPhases];
    if constexpr (kSlices == 1) {
#pragma unroll
      for (int t = 0; t < K * K; ++t)
        total[t] = part[t];
      if (exists)
        write_gradient<K, S>(p, block, y, x + i / kPhases, own.part * kPhases + i % kPhases, total);
    } else {
      __syncthreads(); // the tiles, or the sums before, are read
#pragma unroll
      for (int t = 0; t < K * K; ++t)
        shared[(warp * K * K + t) * kWarp + lane] = part[t];
      __syncthreads();
      if (warp == i) {
#pragma unroll
        for (int t = 0; t < K * K; ++t) {
          total[t] = 0;
#pragma unroll
          for (int slice = 0; slice < kSlices; ++slice)
            total[t] += shared[(slice * K * K + t) * kWarp + lane];
        }
      }
    }
  }
  if constexpr (kSlices > 1) {
    static_assert(kResults <= kSlices, "a warp ends at most one result");
    if (exists && warp < kResults)
      write_gradient<K, S>(p, block, y, x + warp / kPhases, own.part * kPhases + warp % kPhases, total);
  }
}

template <int K, int S, typename T>
struct CorrelatePlanar {
  template <int kSlices, typename Shape>
  static Launched launch_sliced(const Problem& p, Host& host, Shape, const char* name) {
    constexpr int kThreads = kThreadsOf<kSlices>, kWarps = kThreads / kWarp;
    PlanarParams a{p, cut_by<Shape>(p)};
    const int64_t tiles = block_count(a.cut, p); // a sum over channels is one block's
    a.tiles = unsigned(tiles);
    a.cut.split_channels = int(ceil_div(a.cut.group_channels, kSlices));
    if (kSlices == 1 && tiles < kPlanarResident * kPlanarWarps * host.multiprocessors &&
        a.cut.group_channels >= kLeastSliced)
      return {};
    if (kSlices == kMostSlices && (tiles > host.multiprocessors || a.cut.group_channels < kLeastMostSliced))
      return {};
    using Own = Share<K, S, Shape>;
    const int64_t pipes = int64_t(sizeof(float)) * kWarps * Share<K, S, Shape>::template Pipe<T>::kFloats +
        OutputPipe<Own::kPixels, Own::kRows, T, kThreads>::kBytes;
    const int64_t sums = kSlices == 1 ? 0 : int64_t(sizeof(float)) * K * K * kThreads;
    return {
        name,
        carafe::launch(
            correlate_planar_kernel<K, S, T, Shape, kSlices>, kSlices == 1 ? ceil_div(tiles, kWarps) : tiles,
            kThreads, pipes > sums ? pipes : sums, host.stream, a)};
  }

  static Launched launch(const Problem& p, Host& host) {
    return with_shape(p, [&](auto shape) {
      Launched launched = launch_sliced<1>(p, host, shape, "correlate_planar");
      if (launched.kernel == nullptr)
        launched = launch_sliced<kMostSlices>(p, host, shape, "correlate_planar_sliced_8");
      return launched.kernel ? launched
                             : launch_sliced<kFewSlices>(p, host, shape, "correlate_planar_sliced");
    });
  }
};

} // namespace

Launched correlate_planar(const Problem& p, Host& host) { return specialised<CorrelatePlanar>(p, host); }

} // namespace carafe

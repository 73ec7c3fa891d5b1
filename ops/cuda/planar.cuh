// SPDX-License-Identifier: Apache-2.0
// What the kernels for dense rows share: tiles of cells, and the pipeline that
// brings the features under a tile, channel after channel, to shared memory.
// Up map only: cell (y, x) is the feature pixel (y, x).
#pragma once

#include <iterator>

#include "block.cuh"
#include "registers.cuh"

namespace carafe {

constexpr int kPlanarThreads = 128;
constexpr int kBanks = 32;
constexpr int kSector = 32; // bytes that memory moves at least

// The features under a tile of cells. Lanes run over these row by row, so that narrow
// maps fill warps as well.
struct FeatureTile {
  int margin; // features kept left of the tile, >= radius
  int width; // features kept of a row
  int pitch; // floats from row to row in shared memory; = the cells' width mod 32: no bank is met twice
  int chunk; // features that one copy moves
  int chunks; // copies for a tile
  int area; // floats of a tile in shared memory
};

struct PlanarParams {
  Problem problem;
  Cut cut;
  FeatureTile tile;
  bool together; // the pixels of an output row can be read S at a time
};

CARAFE_DEVICE int64_t mask_offset(const MaskView& masks, const Block& block, int y, int x) {
  return block.image * masks.image + block.group * masks.group + y * masks.cell_row + x * masks.cell_column;
}

// Tiles of kSlices channels at a time: channels c, c + split_channels, ...
// Shared memory: kStages raw tiles, and for 16 bits two tiles widened to float.
template <typename T, int kSlices>
struct FeaturePipe {
  static constexpr int kSlots = kSlices == 1 ? 3 : 6; // copies of a thread
  static constexpr int kThreads = kSlices == 1 ? kPlanarThreads : kSlices * kWarp;
  static constexpr bool kWiden = sizeof(T) == 2;

  const FeatureTile& tile;
  Dtype dtype;
  const T* source; // of channel 0 of the block
  int64_t channel_stride;
  int split_channels, channels; // of a slice; from the block's first one to the group's last
  char* raw;
  float* wide;
  int from[kSlots]; // offset in the features, -1 where they are zero
  int to[kSlots]; // offset in the tiles, -1 where there is no copy
  int slice[kSlots];

  CARAFE_HD_STATIC int shared_floats(const FeatureTile& tile) {
    return tile.area * kSlices * (kWiden ? kStages / 2 + 2 : kStages);
  }

  __device__ FeaturePipe(const PlanarParams& a, const Block& block, float* shared)
      : tile(a.tile), dtype(a.problem.features.dtype), split_channels(a.cut.split_channels) {
    const TensorView& x = a.problem.features;
    channel_stride = x.stride[1];
    channels = a.cut.group_channels - block.first_channel;
    source = static_cast<const T*>(x.data) + block.image * x.stride[0] +
        (block.group * a.cut.group_channels + block.first_channel) * channel_stride;
    wide = shared;
    raw = reinterpret_cast<char*>(shared + (kWiden ? 2 * kSlices * tile.area : 0));
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int index = int(threadIdx.x) + i * kThreads;
      const int row_chunks = tile.width / tile.chunk;
      const int column = index % row_chunks * tile.chunk;
      const int row = index / row_chunks % (tile.chunks / row_chunks);
      slice[i] = kSlices == 1 ? 0 : index / tile.chunks;
      const int y = block.y + row - (tile.chunks / row_chunks - a.cut.height) / 2;
      const int left = block.x + column - tile.margin;
      const bool inside = y >= 0 && y < a.problem.in_h && left >= 0 && left < a.problem.in_w;
      from[i] = inside ? int(y * x.stride[2] + left) : -1;
      to[i] = index < tile.chunks * kSlices ? slice[i] * tile.area + row * tile.pitch + column : -1;
    }
  }

  // Begin to bring the channels c of all slices.
  __device__ void fetch(int c) {
    if (c < split_channels) {
      T* target = reinterpret_cast<T*>(raw) + c % kStages * kSlices * tile.area;
#pragma unroll
      for (int i = 0; i < kSlots; ++i)
        if (to[i] >= 0) {
          const int channel = slice[i] * split_channels + c;
          const bool valid = from[i] >= 0 && channel < channels;
          // An address outside is never read, but has to be one.
          const T* address = source + (valid ? channel * channel_stride + from[i] : 0);
          if (tile.chunk * sizeof(T) == 16)
            copy_async<16>(target + to[i], address, valid);
          else if (tile.chunk * sizeof(T) == 4)
            copy_async<4>(target + to[i], address, valid);
          else // rows of 16 bits at odd places
            target[to[i]] = valid ? load_global(address) : T(0);
        }
    }
    commit_copies(); // an empty group, too, so that the groups can be counted
  }

  // Wait for the channels c; they are at `tiles(c)` then, for the whole block.
  __device__ void arrive(int c) {
    wait_copies<kStages - 2>();
    if constexpr (kWiden) { // each thread what it copied itself
      const T* from_raw = reinterpret_cast<T*>(raw) + c % kStages * kSlices * tile.area;
      float* target = wide + c % 2 * kSlices * tile.area;
#pragma unroll
      for (int i = 0; i < kSlots; ++i)
        if (to[i] >= 0) {
          target[to[i]] = widen(from_raw[to[i]], dtype);
          if (tile.chunk == 2)
            target[to[i] + 1] = widen(from_raw[to[i] + 1], dtype);
        }
    }
    __syncthreads();
  }

  __device__ const float* tiles(int c) const {
    if constexpr (kWiden)
      return wide + c % 2 * kSlices * tile.area;
    else
      return reinterpret_cast<const float*>(raw) + c % kStages * kSlices * tile.area;
  }
};

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// The cheapest way to cut the map into tiles of at most `lanes` cells; `slots`
// copies a thread can make. False where none fits.
inline bool choose_tile(PlanarParams& best, int lanes, int slices, int slots) {
  const Problem& p = best.problem;
  const int threads = lanes * slices;
  const int64_t bytes = is_16_bit(p.features.dtype) ? 2 : 4;
  const int radius = int(p.kernel_size) / 2, in_h = int(p.in_h), in_w = int(p.in_w);
  const int taps = int(mask_entries(p) * (1 + p.phases * p.phases));
  const auto cut = [](int size, int by) { return (size + by - 1) / by; }; // 32 bits: every launch comes here
  // All rows must be aligned alike for wide copies.
  const auto divisible = [&p](int64_t n) {
    const TensorView& x = p.features;
    return p.in_w % n == 0 && x.stride[0] % n == 0 && x.stride[1] % n == 0 && x.stride[2] % n == 0;
  };
  int64_t least = INT64_MAX;
  for (const int chunk : {bytes == 4 ? 4 : 2, 1}) {
    if (!divisible(chunk) || !is_aligned(p.features.data, chunk * bytes))
      continue;
    for (int width = chunk; width <= lanes && width <= in_w; width += chunk) {
      // Two blocks must not share a sector of the output, which each would write in part.
      if (width < in_w && width * p.phases * bytes % kSector != 0)
        continue;
      FeatureTile t{};
      t.chunk = chunk;
      t.margin = cut(radius, chunk) * chunk;
      t.width = cut(t.margin + width + radius, chunk) * chunk;
      t.pitch = width + cut(t.width - width, kBanks) * kBanks;
      const int copied_rows = slots * lanes / (t.width / chunk);
      // A quarter of the shared memory is left to an OutputPipe.
      const int shared_rows = int(kMostShared / 4 * 3 / int(sizeof(float)) / (kStages * slices * t.pitch));
      const int height = int(
          min_of(min_of(lanes / width, in_h), min_of(copied_rows, shared_rows) - 2 * radius));
      if (height < 1)
        continue;
      const int columns = cut(in_w, width), rows = cut(in_h, height);
      t.chunks = t.width / chunk * (height + 2 * radius);
      t.area = t.pitch * (height + 2 * radius);
      t.area = cut(t.area, 4) * 4; // the next tile stays aligned
      // Instructions of a thread a channel, about: the taps' own, 4 for a copy, 6 for a narrow one.
      const int copies = cut(t.chunks * slices, threads) * (chunk == 1 ? 6 : 4);
      const int64_t cost = int64_t(columns) * rows * (taps + copies);
      if (cost <= least) { // of equals the widest: longer rows, less halo
        least = cost;
        best.tile = t;
        best.cut.width = width, best.cut.height = height;
        best.cut.columns = columns, best.cut.rows = rows;
      }
    }
    if (least != INT64_MAX)
      return true; // the widest copies that are possible
  }
  return false;
}

// Split the channels among blocks, where a processor holds `resident` of them: the least
// time by whole waves of blocks, each of which loads its masks in about the time of
// `mask_time` channels. Splits are multiples of what a block takes at once.
constexpr int kMaskTime = 16;
inline void choose_splits(
    Cut& cut,
    const Problem& p,
    int64_t multiprocessors,
    int64_t resident,
    int mask_time = kMaskTime,
    int multiple = 1) {
  constexpr int64_t kMostSplits = 64; // a bound on this search, which every launch makes
  const int64_t channels = group_channels(p), wave = resident * multiprocessors;
  const int64_t tiles = p.batch * p.groups * cut.rows * cut.columns;
  int64_t best = 1, least = INT64_MAX;
  for (int64_t splits = 1; splits <= min_of(channels / mask_time, kMostSplits) || splits == 1; ++splits) {
    const int64_t time = ceil_div(tiles * splits, wave) * (ceil_div(channels, splits) + mask_time);
    if (time < least) {
      least = time;
      best = splits;
    }
  }
  cut.group_channels = int(channels);
  cut.split_channels = int(ceil_div(ceil_div(channels, best), multiple)) * multiple;
  cut.splits = int(ceil_div(channels, cut.split_channels));
}

// Dense rows of a supported dtype, and offsets inside a channel that fit 32 bits.
inline bool is_planar(const Problem& p) {
  const auto dense = [](const TensorView& view, int64_t height, int64_t width) {
    return view.dtype != Dtype::kDouble && (width == 1 || view.stride[3] == 1) && view.stride[2] >= 0 &&
        height * view.stride[2] + width < INT32_MAX;
  };
  return !p.wide && p.step == 1 && p.features.dtype == p.output.dtype && group_channels(p) > 0 &&
      group_channels(p) < INT32_MAX && dense(p.features, p.in_h, p.in_w) &&
      dense(p.output, p.cells_h * p.phases, p.cells_w * p.phases) && p.masks.dtype != Dtype::kDouble &&
      p.grad_masks.dtype != Dtype::kDouble;
}

// Whether S neighbouring pixels of the output can be read or written at once.
inline bool pixels_together(const Problem& p) {
  const int64_t bytes = p.phases * (is_16_bit(p.output.dtype) ? 2 : 4);
  const int64_t* stride = p.output.stride;
  return is_aligned(p.output.data, bytes) && stride[0] % p.phases == 0 && stride[1] % p.phases == 0 &&
      stride[2] % p.phases == 0;
}

// One of the kPlanarSizes of one operator, by element type. The name of Run must be its
// own: two files may not share one.
template <template <int, int, typename> class Run, int i = 0>
Launched specialised(const Problem& p, Host& host) {
  if constexpr (i < int(std::size(kPlanarSizes))) {
    constexpr int K = kPlanarSizes[i][0], S = kPlanarSizes[i][1];
    if (p.kernel_size != K || p.phases != S)
      return specialised<Run, i + 1>(p, host);
    if (!is_planar(p))
      return {};
    return is_16_bit(p.features.dtype) ? Run<K, S, uint16_t>::launch(p, host)
                                       : Run<K, S, float>::launch(p, host);
  }
  return {};
}

} // namespace carafe

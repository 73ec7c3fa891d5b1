// SPDX-License-Identifier: Apache-2.0
// What the kernels for dense rows share: the tile of a warp, and the pipeline that
// brings the features under it, channel after channel, to shared memory.
// Up map only: cell (y, x) is the feature pixel (y, x).
#pragma once

#include <iterator>

#include "block.cuh"
#include "registers.cuh"

namespace carafe {

constexpr int kPlanarWarps = 4; // of a block
constexpr int kPlanarThreads = kPlanarWarps * kWarp;
// Blocks on a multiprocessor: what the registers of (5, 2) allow.
constexpr int kPlanarResident = 3;

// The cells of a warp, a lane each, and the neighbouring features that one copy moves.
template <int kCellsWide, int kCellsHigh, int kFeatures>
struct Shape {
  static constexpr int kWidth = kCellsWide, kHeight = kCellsHigh, kChunk = kFeatures;
  static_assert(kWidth * kHeight == kWarp);
};

constexpr int round_up(int value, int by) { return (value + by - 1) / by * by; }

// The part of a map that a warp's cells reach, the cells S pixels wide.
template <int S, int K, typename Shape, bool kDense>
struct WarpTile {
  static constexpr int kChunk = Shape::kChunk, kRadius = S * (K / 2), kScale = S;
  static constexpr int kMargin = round_up(kRadius, kChunk); // kept left of the cells
  static constexpr int kRowCopies = round_up(kMargin + S * Shape::kWidth + kRadius, kChunk) / kChunk;
  static constexpr int kRows = S * Shape::kHeight + 2 * kRadius;
  static constexpr int kCopies = kRowCopies * kRows;
  static constexpr int kSlots = round_up(kCopies, kWarp) / kWarp; // copies of a lane
  // Values from row to row. Lanes that read as much as one copy moves, or half of it, meet no
  // bank twice in dense rows; lanes that read single values do not where it is the width more
  // than a multiple of twice the width.
  static constexpr int kRow = kRowCopies * kChunk;
  static constexpr int kPitch = kDense ? kRow
                                       : round_up(kRow - Shape::kWidth, 2 * Shape::kWidth) + Shape::kWidth;
  static constexpr int kArea = kRows * kPitch;
  // Of the window of two pixels side by side, or of one where S is 1.
  static constexpr int kAlignment = S == 1 ? 1 : (kMargin - kRadius) % 4 == 0 ? 4 : 2;
  // A tile as wide as small maps shares no rows with one beside it: L1 would not help.
  static constexpr bool kPastL1 = Shape::kWidth > 8;

  // Where the window of a cell begins, its first row and column.
  CARAFE_HD_STATIC int place(int row, int column) {
    return S * row * kPitch + S * column + kMargin - kRadius;
  }
};

struct PlanarParams {
  Problem problem;
  Cut cut;
  unsigned tiles; // with all their groups, images and splits of channels
};

CARAFE_DEVICE int64_t mask_offset(const MaskView& masks, const Block& block, int y, int x) {
  return block.image * masks.image + block.group * masks.group + y * masks.cell_row + x * masks.cell_column;
}

// A warp's own: no barrier of the block is needed. Shared memory: kStages tiles as they are, and
// to widen those of 16 bits, two of floats.
template <typename Tile, typename T, bool kWiden>
struct TilePipe {
  static_assert(!kWiden || sizeof(T) == 2);
  static constexpr int kWide = kWiden ? 2 * Tile::kArea : 0; // floats
  static constexpr int kFloats = kWide + kStages * Tile::kArea * int(sizeof(T)) / 4; // of a warp

  const Dtype dtype;
  const int64_t channel_stride;
  float* const wide;
  T* const raw;
  const T* source[Tile::kSlots]; // in the next channel to fetch
  int to[Tile::kSlots]; // offset in a tile
  int channels[Tile::kSlots]; // none outside the map: those places stay zero

  __device__ TilePipe(
      const TensorView& view,
      const Block& block,
      int64_t first_channel,
      int own_channels,
      int height, // of the map
      int width,
      float* shared)
      : dtype(view.dtype),
        channel_stride(view.stride[1]),
        wide(shared),
        raw(reinterpret_cast<T*>(shared + kWide)) {
    const T* const first = static_cast<const T*>(view.data) + block.image * view.stride[0] +
        first_channel * channel_stride;
#pragma unroll
    for (int i = 0; i < Tile::kSlots; ++i) {
      const int index = int(threadIdx.x) % kWarp + i * kWarp;
      const int row = index / Tile::kRowCopies, column = index % Tile::kRowCopies * Tile::kChunk;
      const int top = Tile::kScale * block.y + row - Tile::kRadius;
      const int left = Tile::kScale * block.x + column - Tile::kMargin;
      const bool inside = is_copy(i) && top >= 0 && top < height && left >= 0 && left < width;
      to[i] = row * Tile::kPitch + column;
      channels[i] = inside ? own_channels : 0;
      source[i] = first + (inside ? top * view.stride[2] + left : 0);
      if (!inside && is_copy(i))
        for (int stage = 0; stage < kStages; ++stage)
          for (int feature = 0; feature < Tile::kChunk; ++feature)
            raw[stage * Tile::kArea + to[i] + feature] = 0;
    }
  }

  // Whether slot i of this lane is one of the tile's.
  static __device__ bool is_copy(int i) {
    return (i + 1) * kWarp <= Tile::kCopies || i * kWarp + int(threadIdx.x) % kWarp < Tile::kCopies;
  }

  // Begin to bring the next channel.
  __device__ void fetch(int stage, int channel) {
#pragma unroll
    for (int i = 0; i < Tile::kSlots; ++i) {
      if (channel < channels[i]) {
        T* const target = raw + stage * Tile::kArea + to[i];
        if constexpr (Tile::kChunk * sizeof(T) >= 4)
          copy_async<Tile::kChunk* int(sizeof(T)), Tile::kPastL1>(target, source[i]);
        else // rows of 16 bits at odd places
          *target = load_global(source[i]);
      }
      source[i] += channel_stride;
    }
    commit_copies(); // an empty group, too, so that the groups can be counted
  }

  // Wait for a channel, the oldest one under way; its tile, for the whole warp.
  __device__ auto arrive(int stage) {
    wait_copies<kStages - 2>();
    if constexpr (kWiden) { // each lane what it copied itself
      float* const tile = wide + stage % 2 * Tile::kArea;
#pragma unroll
      for (int i = 0; i < Tile::kSlots; ++i)
        if (is_copy(i))
          widen(tile + to[i], raw + stage * Tile::kArea + to[i]);
      __syncwarp();
      return static_cast<const float*>(tile);
    } else {
      __syncwarp();
      return static_cast<const T*>(raw + stage * Tile::kArea);
    }
  }

  __device__ void widen(float* target, const T* from) const {
    float value[Tile::kChunk];
    load_shared<Tile::kChunk>(value, from, dtype);
    if constexpr (Tile::kChunk == 4)
      *reinterpret_cast<float4*>(target) = make_float4(value[0], value[1], value[2], value[3]);
    else if constexpr (Tile::kChunk == 2)
      *reinterpret_cast<float2*>(target) = make_float2(value[0], value[1]);
    else
      *target = value[0];
  }
};

// N values of a row, kAlignment of them read at a time.
template <int N, int kAlignment, typename T>
CARAFE_DEVICE void load_window(float* window, const T* shared, Dtype dtype) {
#pragma unroll
  for (int i = 0; i < N; i += kAlignment)
    load_shared<kAlignment>(window + i, shared + i, dtype);
}

// What a lane has of a warp's tile. Two cells side by side and a row of their phases take as
// many masks as one cell with all its phases, but fewer reads, and wider ones.
template <int K, int S, typename Shape>
struct Share {
  // Where the window of two cells starts at an even place, as its rows do.
  static constexpr int kCells = S == 2 && Shape::kChunk >= 2 && K / 2 % 2 == 0 ? 2 : 1;
  static constexpr int kPhases = S * S / kCells; // of a cell
  static constexpr int kRows = kPhases / S; // of output pixels
  static constexpr int kPixels = S * kCells; // of a row
  static constexpr int kWindow = K + kCells - 1; // features of a row
  static constexpr int kAcross = Shape::kWidth / kCells; // lanes

  // The features under the tile of a warp.
  using Tile = WarpTile<1, K, Shape, kCells == 2>;
  template <typename T>
  using Pipe = TilePipe<Tile, T, sizeof(T) == 2>;

  const int column = int(threadIdx.x) % kWarp % kAcross * kCells; // of the first cell in the tile
  const int part = int(threadIdx.x) % kWarp / kAcross % kCells; // which row of phases
  const int row = int(threadIdx.x) % kWarp / kAcross / kCells;
};

inline int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

// Split the channels among blocks, or warps, where a processor holds `resident` of them: the
// least time by whole waves, each of which loads its masks in about the time of
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

// Cut the map into tiles, all channels of a group in each.
template <typename Shape>
Cut cut_by(const Problem& p) {
  Cut cut{Shape::kWidth, Shape::kHeight};
  cut.columns = int(ceil_div(p.cells_w, Shape::kWidth));
  cut.rows = int(ceil_div(p.cells_h, Shape::kHeight));
  cut.group_channels = cut.split_channels = int(group_channels(p));
  cut.splits = 1;
  return cut;
}

// Whether values of a row can be read and written n at a time.
inline bool divides(const TensorView& view, int64_t width, int64_t n) {
  return width % n == 0 && view.stride[0] % n == 0 && view.stride[1] % n == 0 && view.stride[2] % n == 0 &&
      is_aligned(view.data, n * (is_16_bit(view.dtype) ? 2 : 4));
}

// body(Shape) with the widest copies that all rows are aligned for.
template <typename Body>
Launched with_shape(const Problem& p, Body body) {
  if (!divides(p.features, p.in_w, 2) || !divides(p.output, p.cells_w * p.phases, 2 * p.phases))
    return body(Shape<8, 4, 1>{});
  return divides(p.features, p.in_w, 4) ? body(Shape<8, 4, 4>{}) : body(Shape<16, 2, 2>{});
}

// Dense rows of a supported dtype, the pixels of a cell aligned to be read and written at
// once, and offsets inside a channel that fit 32 bits.
inline bool is_planar(const Problem& p) {
  const auto dense = [](const TensorView& view, int64_t height, int64_t width) {
    return view.dtype != Dtype::kDouble && (width == 1 || view.stride[3] == 1) && view.stride[2] >= 0 &&
        height * view.stride[2] + width < INT32_MAX;
  };
  const MaskView& m = p.masks; // of scatter alone
  const int64_t masks = mask_entries(p) * m.entry + p.cells_h * m.cell_row + p.cells_w * m.cell_column +
      p.phases * (m.phase_row + m.phase_column);
  return masks < INT32_MAX && !p.wide && p.step == 1 && p.features.dtype == p.output.dtype &&
      group_channels(p) > 0 && group_channels(p) < INT32_MAX && dense(p.features, p.in_h, p.in_w) &&
      dense(p.output, p.cells_h * p.phases, p.cells_w * p.phases) &&
      divides(p.output, p.cells_w * p.phases, p.phases) && p.masks.dtype != Dtype::kDouble &&
      p.grad_masks.dtype != Dtype::kDouble;
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

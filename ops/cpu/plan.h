// SPDX-License-Identifier: Apache-2.0
// How the work is cut into items. No cut changes a bit of the result.
#pragma once

#include "kernels.h"
#include "vector.h"

namespace carafe::CARAFE_ISA {
namespace {

// Hands out parts of a thread's scratch; with no base it only counts.
struct Arena {
  uintptr_t base;
  size_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* part = (T*)(base + used);
    used += (size_t(count) * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
    return part;
  }
};

// Budgets of an item's scratch, so that what is read again and again stays in L2, 1 MB
// of a Zen 4 core, beside what passes by: bytes of masks, or of their sums, in a tile of
// columns, and in all rows of an item, which share packed features.
constexpr int64_t kTileBytes = 640 << 10;
constexpr int64_t kRowsBytes = 256 << 10;
constexpr int64_t kMostRows = 8; // of an item, which packs k - 1 more rows of features

// Channels packed together. Of one vector of cells 32 are 8 KB of output and 20 KB of
// feature lines (k = 5, s = 2): together they fit in 32 KB of L1.
constexpr int64_t kPackedChannels = 32;

constexpr int64_t kLeastSplit = 32; // channels: fewer do not repay the masks that are packed once more
constexpr int64_t kSplitMultiple = 12; // of every register block: 2, 3 or 4 channels

constexpr int64_t kItemsPerThread = 2; // by splits: more repeat the softmax too often
constexpr int64_t kChunksPerThread = 4; // above it, batches fill the threads by themselves

// Columns of an item: as few tiles as keep `column_bytes` a column within the
// budget, all of about one width, whole vectors.
template <typename Acc>
void plan_columns(Plan& plan, int64_t columns, int64_t budget, int64_t column_bytes) {
  constexpr int n = kLanes<Acc>;
  plan.columns = columns;
  const int64_t most = budget / column_bytes / n * n;
  plan.tiles = ceil_div(columns, most > n ? most : n);
  plan.tile_w = ceil_div(ceil_div(columns, plan.tiles), n) * n;
  plan.tile_w = plan.tile_w < columns ? plan.tile_w : columns;
  plan.tiles = ceil_div(columns, plan.tile_w);
}

// Rows that share packed features: as many as fit the budget, of at most kMostRows.
inline int64_t most_rows(const Plan& plan, int64_t column_bytes) {
  const int64_t most = kRowsBytes / (column_bytes * plan.tile_w);
  return most < 1 ? 1 : most < kMostRows ? most : kMostRows;
}

// Rows of an item: `most`, or fewer, so that each thread gets as many chunks;
// batches that fill the threads by themselves keep the long ones.
inline void plan_rows(Plan& plan, const Problem& p, int64_t rows, int64_t most, int64_t threads) {
  plan.rows = rows;
  plan.chunks = ceil_div(rows, most);
  if (p.batch * plan.tiles * p.groups < kChunksPerThread * threads)
    plan.chunks = ceil_div(plan.chunks, threads) * threads;
  plan.chunks = plan.chunks < rows ? plan.chunks : rows;
  plan.chunk_h = ceil_div(rows, plan.chunks); // of the longest
}

// Channels of an item: all of a group, cut down to `fewest` where there are too
// few rows to keep the threads busy; every cut packs the masks once more.
inline void plan_splits(Plan& plan, const Problem& p, int64_t threads, int64_t fewest) {
  const int64_t channels = group_channels(p);
  const int64_t without = p.batch * plan.chunks * plan.tiles * p.groups;
  int64_t splits = ceil_div(kItemsPerThread * threads, without);
  const int64_t most = ceil_div(channels, fewest);
  splits = threads == 1 ? 1 : splits < most ? splits : most;
  plan.split_channels = ceil_div(ceil_div(channels, splits), kSplitMultiple) * kSplitMultiple;
  plan.splits = ceil_div(channels, plan.split_channels);
}

// What follows from the cuts; `Scratch` says what a thread needs for such an item.
template <typename Scratch>
void plan_items(Plan& plan, const Problem& p, int64_t pixel_work) {
  plan.items = p.batch * plan.chunks * plan.tiles * p.groups * plan.splits;
  plan.item_work = plan.chunk_h * plan.tile_w * plan.split_channels * pixel_work;
  Arena arena{0};
  const Scratch scratch(p, plan, arena);
  plan.scratch_bytes = arena.used;
}

struct Item {
  int64_t image, group;
  int64_t first_row, last_row; // last excluded
  int64_t first_column, columns;
  int64_t first_channel, last_channel; // of all channels, last excluded
};

// Images slowest, then rows: a thread's items lie next to each other.
inline Item item_at(const Problem& p, const Plan& plan, int64_t index) {
  Item item;
  const int64_t split = index % plan.splits;
  index /= plan.splits;
  item.group = index % p.groups;
  index /= p.groups;
  const int64_t tile = index % plan.tiles;
  index /= plan.tiles;
  const int64_t chunk = index % plan.chunks;
  item.first_row = chunk * plan.rows / plan.chunks;
  item.last_row = (chunk + 1) * plan.rows / plan.chunks;
  item.image = index / plan.chunks;
  item.first_column = tile * plan.tile_w;
  item.columns = plan.columns - item.first_column;
  item.columns = item.columns < plan.tile_w ? item.columns : plan.tile_w;
  const int64_t channels = group_channels(p);
  const int64_t first = split * plan.split_channels;
  const int64_t last = first + plan.split_channels;
  item.first_channel = item.group * channels + first;
  item.last_channel = item.group * channels + (last < channels ? last : channels);
  return item;
}

} // namespace
} // namespace carafe::CARAFE_ISA

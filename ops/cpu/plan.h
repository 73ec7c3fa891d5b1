// SPDX-License-Identifier: Apache-2.0
// How the work is cut into items. No cut moves a bit of the result.
// Included by kernels.cpp only, inside its anonymous namespace.

// Columns of an item: as few tiles as keep `column_bytes` of packed weights a
// column within the budget, all of about one width, whole vectors.
template <typename Acc>
void plan_columns(Params& p, int64_t columns, int64_t budget, int64_t column_bytes) {
  constexpr int n = kLanes<Acc>;
  p.columns = columns;
  const int64_t most = budget / column_bytes / n * n;
  p.tiles = ceil_div(columns, most > n ? most : n);
  p.tile_w = ceil_div(ceil_div(columns, p.tiles), n) * n;
  p.tile_w = p.tile_w < columns ? p.tile_w : columns;
  p.tiles = ceil_div(columns, p.tile_w);
}

// Rows of an item: `most`, or fewer, so that each thread gets as many chunks;
// batches that fill the threads by themselves keep the long ones.
static inline void plan_rows(Params& p, int64_t rows, int64_t most, int64_t threads) {
  p.rows = rows;
  p.chunks = ceil_div(rows, most);
  if (p.batch * p.tiles * p.groups < 4 * threads)
    p.chunks = ceil_div(p.chunks, threads) * threads;
  p.chunks = p.chunks < rows ? p.chunks : rows;
  p.chunk_h = ceil_div(rows, p.chunks); // of the longest
}

// Channels of an item: all of a group, cut down to `fewest` where there are too
// few rows to keep the threads busy; every cut packs the weights once more.
static inline void plan_splits(Params& p, int64_t threads, int64_t fewest) {
  const int64_t channels = p.channels / p.groups;
  const int64_t without = p.batch * p.chunks * p.tiles * p.groups;
  int64_t splits = ceil_div(2 * threads, without);
  const int64_t most = ceil_div(channels, fewest);
  splits = threads == 1 ? 1 : splits < most ? splits : most;
  // a multiple of every register block: 2, 3 or 4 channels
  p.split_channels = ceil_div(ceil_div(channels, splits), 12) * 12;
  p.splits = ceil_div(channels, p.split_channels);
}

struct Item {
  int64_t image, group;
  int64_t first_row, last_row; // last excluded
  int64_t first_column, columns;
  int64_t first_channel, last_channel; // of all channels, last excluded
};

// Images slowest, then rows: a thread's items lie next to each other.
static inline Item item_at(const Params& p, int64_t index) {
  Item item;
  const int64_t split = index % p.splits;
  index /= p.splits;
  item.group = index % p.groups;
  index /= p.groups;
  const int64_t tile = index % p.tiles;
  index /= p.tiles;
  const int64_t chunk = index % p.chunks;
  item.first_row = chunk * p.rows / p.chunks;
  item.last_row = (chunk + 1) * p.rows / p.chunks;
  item.image = index / p.chunks;
  item.first_column = tile * p.tile_w;
  item.columns = p.columns - item.first_column;
  item.columns = item.columns < p.tile_w ? item.columns : p.tile_w;
  const int64_t group_channels = p.channels / p.groups;
  const int64_t first = split * p.split_channels;
  const int64_t last = first + p.split_channels;
  item.first_channel = item.group * group_channels + first;
  item.last_channel =
      item.group * group_channels + (last < group_channels ? last : group_channels);
  return item;
}

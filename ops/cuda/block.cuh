// SPDX-License-Identifier: Apache-2.0
// How a map, its groups and their channels are shared out among blocks of threads.
#pragma once

#include "device.h"

namespace carafe {

constexpr int kWarp = 32;

struct Cut {
  int width, height; // of a tile: cells; features in scatter_last
  int columns, rows; // tiles of the map
  int group_channels;
  int split_channels; // channels of a block, or of a slice of one
  int splits;
};

// What a block of threads has to do, or a warp.
struct Block {
  int64_t image, group;
  int first_channel; // of the group
  int y, x; // of the tile's first cell
};

// Blocks are counted along x alone: the other axes end at 65,535.
CARAFE_DEVICE Block block_at(const Cut& cut, const Problem& p, unsigned index) {
  unsigned rest = index;
  Block block;
  block.x = int(rest % cut.columns) * cut.width;
  rest /= cut.columns;
  block.y = int(rest % cut.rows) * cut.height;
  rest /= cut.rows;
  block.first_channel = int(rest % cut.splits) * cut.split_channels;
  rest /= cut.splits;
  block.group = rest % unsigned(p.groups);
  block.image = rest / unsigned(p.groups);
  return block;
}

CARAFE_DEVICE Block block_at(const Cut& cut, const Problem& p) { return block_at(cut, p, blockIdx.x); }

inline int64_t block_count(const Cut& cut, const Problem& p) {
  return p.batch * p.groups * cut.rows * cut.columns * cut.splits;
}

} // namespace carafe

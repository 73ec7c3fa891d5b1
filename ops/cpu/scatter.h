// SPDX-License-Identifier: Apache-2.0
// C: features = sum over the output pixels that read a feature pixel of
// masks * output, written as a gather, so that no two items share a target.
// An item is a chunk of feature rows (or a tile of it) of one group, for some
// channels. Its masks are packed once; output rows pass through a ring of k
// packed rows, since k feature rows need each. Sums are held where the cell is,
// one vector for each tap column, and shifted when the row is done.
#pragma once

#include "masks.h"
#include "plan.h"

namespace carafe::CARAFE_ISA {
namespace {

template <typename Acc>
struct Scatter {
  static constexpr int n = kLanes<Acc>;
  static constexpr int kChannels = kManyRegisters ? 4 : 2; // of a register block

  struct Scratch {
    int64_t packed_channels;
    int64_t cells_w, cells_h; // most cells that an item gathers from
    int64_t margin; // zeros left and right of a row of sums
    int64_t sum_width, target_width;
    int64_t kept; // finished rows: a vector of channels goes out together in channels_last
    Acc *masks, *ring, *sums, *target, *row;
    const Acc **output_rows, **mask_rows; // [k], what one row gathers from

    Scratch(const Problem& p, const Plan& plan, Arena& arena) {
      const int64_t k = p.kernel_size, entries = k * k;
      const int64_t phases2 = padded_phases(p);
      packed_channels = plan.packed_channels;
      cells_w = cells_of(p, plan.tile_w, p.cells_w);
      cells_h = cells_of(p, plan.chunk_h, p.cells_h);
      const int64_t lanes = ceil_div(cells_w, n) * n;
      margin = ceil_div(k, n) * n;
      sum_width = lanes + ceil_div(plan.tile_w, n) * n + 2 * margin;
      masks = arena.take<Acc>(cells_h * (lanes / n) * mask_vector_size<Acc>(p));
      ring = arena.take<Acc>(k * (lanes / n) * output_vector_size<Acc>(p, packed_channels));
      sums = arena.take<Acc>(kChannels * k * sum_width);
      target_width = ceil_div(plan.tile_w, n) * n;
      kept = p.features.stride[1] == 1 ? n : 1;
      target = arena.take<Acc>(kept * target_width);
      row = arena.take<Acc>(entries * phases2 + lanes * p.phases);
      output_rows = arena.take<const Acc*>(k);
      mask_rows = arena.take<const Acc*>(k);
    }
  };

  // Cells that `size` neighbouring features gather from, of `all`.
  static int64_t cells_of(const Problem& p, int64_t size, int64_t all) {
    const int64_t most = floor_div(size + p.kernel_size - 2, p.step) + 1;
    return most < all ? most : all;
  }

  // Bytes of the masks of all cells that an item gathers from, which wait in L2, and of
  // the ring that passes by.
  static constexpr int64_t kChunkBytes = 1 << 20;
  static constexpr int64_t kRingBytes = 512 << 10;

  static Plan plan(const Problem& p, int64_t threads) {
    const int64_t k = p.kernel_size, radius = k / 2;
    const int64_t cell_bytes = mask_cell_bytes<Acc>(p);
    Plan plan{};
    // Masks of at least a few rows more than the k that one row needs.
    plan_columns<Acc>(plan, p.in_w, kTileBytes, (ceil_div(k, p.step) + 1) * cell_bytes);
    const int64_t lanes = ceil_div(cells_of(p, plan.tile_w, p.cells_w), n) * n;
    int64_t most = (kChunkBytes / (lanes * cell_bytes) - 1) * p.step + 1 - 2 * radius;
    most = most > 1 ? most : 1;
    const int64_t channel_bytes = k * padded_phases(p) * lanes * int64_t(sizeof(Acc)); // of the ring
    plan.packed_channels = kRingBytes / channel_bytes / kChannels * kChannels;
    plan.packed_channels = plan.packed_channels < kPackedChannels ? plan.packed_channels : kPackedChannels;
    plan.packed_channels = plan.packed_channels > kChannels ? plan.packed_channels : kChannels;
    plan_rows(plan, p, p.in_h, most, threads);
    plan_splits(plan, p, threads, kLeastSplit);
    // Too few items still: shorter chunks, though each packs its halo again.
    const int64_t others = p.batch * plan.tiles * p.groups * plan.splits;
    if (others * plan.chunks < threads && others * p.in_h > 1) {
      const int64_t rows = ceil_div(p.in_h, ceil_div(threads, others));
      plan_rows(plan, p, p.in_h, rows < most ? rows : most, 1);
    }
    const int64_t channels = plan.split_channels < group_channels(p) ? plan.split_channels
                                                                     : group_channels(p);
    plan.packed_channels = plan.packed_channels < channels ? plan.packed_channels : channels;
    plan_items<Scratch>(plan, p, ceil_div(p.phases * p.phases * mask_entries(p), p.step * p.step));
    return plan;
  }

  // One vector of cells, C channels, T tap columns; all cell rows that reach
  // the feature row. V is a whole vector or the upper half of one.
  template <int C, int T, typename V>
  static void register_block(
      const Acc* const* outputs, // [rows] of [C, padded phases, lanes], from output_offset on
      int64_t output_offset,
      const Acc* const* masks, // [rows] of [T, padded phases, lanes], from mask_offset on
      int64_t mask_offset,
      Acc* sums, // [C, k, sum_width], of the first tap and vector
      int64_t rows,
      int64_t padded,
      int64_t sum_width,
      int64_t k) {
    V sum[C][T] = {};
    for (int64_t row = 0; row < rows; ++row) {
      const Acc* output = outputs[row] + output_offset;
      const Acc* weight = masks[row] + mask_offset;
      for (int64_t phase = 0; phase < padded; ++phase, output += n, weight += n) {
        V grad[C];
        CARAFE_UNROLL
        for (int c = 0; c < C; ++c) {
          grad[c] = load_as<V>(output + c * padded * n);
          CARAFE_IN_REGISTER(grad[c]);
        }
        CARAFE_UNROLL
        for (int t = 0; t < T; ++t) {
          V w = load_as<V>(weight + t * padded * n);
          CARAFE_IN_REGISTER(w);
          CARAFE_UNROLL
          for (int c = 0; c < C; ++c) {
            sum[c][t] += grad[c] * w;
            CARAFE_IN_REGISTER(sum[c][t]);
          }
        }
      }
    }
    CARAFE_UNROLL
    for (int c = 0; c < C; ++c) {
      CARAFE_UNROLL
      for (int t = 0; t < T; ++t)
        store(sums + (c * k + t) * sum_width, sum[c][t]);
    }
  }

  using RegisterBlock = void (*)(
      const Acc* const*, int64_t, const Acc* const*, int64_t, Acc*, int64_t, int64_t, int64_t, int64_t);

  static void run(const Problem& p, const Plan& plan, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, plan, arena);
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, plan, index), scratch);
  }

  // The cells that an item, and one row of it, gathers from.
  struct Cells {
    int64_t first_row, last_row, first_column, columns;
  };

  static int64_t clip(int64_t value, int64_t most) { return value < 0 ? 0 : value < most ? value : most; }

  static void run_item(const Problem& p, const Item& item, const Scratch& s) {
    const int64_t k = p.kernel_size, radius = k / 2;
    Cells cells;
    cells.first_row = clip(first_cell(item.first_row, p.step, radius), p.cells_h);
    cells.last_row = clip(last_cell(item.last_row - 1, p.step, radius) + 1, p.cells_h);
    cells.first_column = clip(first_cell(item.first_column, p.step, radius), p.cells_w);
    cells.columns = clip(last_cell(item.first_column + item.columns - 1, p.step, radius) + 1, p.cells_w) -
        cells.first_column;
    cells.columns = cells.columns > 0 ? cells.columns : 0;
    const int64_t vectors = ceil_div(cells.columns, n);
    const int64_t row_size = vectors * mask_vector_size<Acc>(p);
    for (int64_t row = cells.first_row; row < cells.last_row; ++row)
      pack_masks(
          s.masks + (row - cells.first_row) * row_size, p, item.image, item.group, row, cells.first_column,
          cells.columns, s.row);
    fill_zero(s.sums, kChannels * k * s.sum_width);
    for (int64_t first = item.first_channel; first < item.last_channel; first += s.packed_channels) {
      int64_t count = item.last_channel - first;
      count = count < s.packed_channels ? count : s.packed_channels;
      run_channels(p, item, s, cells, first, count);
    }
  }

  static void run_channels(
      const Problem& p,
      const Item& item,
      const Scratch& s,
      const Cells& cells,
      int64_t first_channel,
      int64_t channels) {
    const int64_t k = p.kernel_size, radius = k / 2, padded = padded_phases(p);
    const int64_t vectors = ceil_div(cells.columns, n);
    const int64_t slot_size = vectors * output_vector_size<Acc>(p, channels);
    const int64_t size = mask_vector_size<Acc>(p);
    const bool ahead = asks_ahead(p);
    const int64_t* stride = p.features.stride;
    const int64_t base = item.image * stride[0] + first_channel * stride[1] + item.first_column * stride[3];
    const bool direct = p.step == 1 && s.kept == 1 && item.columns >= n &&
        is_dense<Acc>(p.features, stride[3]);
    int64_t packed = cells.first_row; // cell rows before this one are in the ring
    for (int64_t y = item.first_row; y < item.last_row; ++y) {
      const int64_t first = clip(first_cell(y, p.step, radius), p.cells_h);
      const int64_t last = clip(last_cell(y, p.step, radius) + 1, p.cells_h);
      for (; packed < last; ++packed)
        pack_output(
            s.ring + packed % k * slot_size, p, item.image, first_channel, channels, packed,
            cells.first_column, cells.columns, s.row);
      int64_t rows = 0; // of cells, that reach this feature row
      for (int64_t row = first; row < last; ++row, ++rows) {
        const int64_t a = y + radius - row * p.step;
        s.output_rows[rows] = s.ring + row % k * slot_size;
        s.mask_rows[rows] = s.masks + (row - cells.first_row) * vectors * size + a * k * padded * n;
      }
      int64_t done = 0, written = 0; // channels summed, and of these in the features
      while (done < channels) {
        const int64_t count = channels - done >= kChannels ? kChannels : 1;
        if (ahead) { // for the next row of cells, and for what this gather writes
          if (packed < cells.last_row)
            prefetch_output(
                p, item.image, first_channel + done, count, packed, cells.first_column, cells.columns, 0, 1);
          for (int64_t c = done; c < done + count; ++c)
            prefetch_row<true>(p.features, base + c * stride[1] + y * stride[2], stride[3], item.columns);
        }
        gather(p, s, cells.columns, rows, done, count, channels);
        for (int64_t i = 0; i < count; ++i, ++done) {
          if (direct) {
            add_columns(
                p, item, s, cells, (Acc*)p.features.data + base + done * stride[1] + y * stride[2],
                s.sums + i * k * s.sum_width);
            continue;
          }
          add_columns(
              p, item, s, cells, s.target + (done - written) * s.target_width, s.sums + i * k * s.sum_width);
          if (done + 1 - written == s.kept || done + 1 == channels) {
            write(p, item, s, y, first_channel + written, done + 1 - written);
            written = done + 1;
          }
        }
      }
    }
  }

  static void gather(
      const Problem& p,
      const Scratch& s,
      int64_t columns, // of cells
      int64_t rows,
      int64_t channel, // within the ring
      int64_t count,
      int64_t channels) {
    const int64_t k = p.kernel_size, padded = padded_phases(p);
    const int64_t size = mask_vector_size<Acc>(p);
    const int64_t output_size = output_vector_size<Acc>(p, channels);
    for (int64_t v = 0; v * n < columns; ++v) {
      const bool tail = (v + 1) * n > columns && has_tail<Acc>(columns);
      const int64_t skipped = tail ? n / 2 : 0;
      const int64_t cell = vector_start<Acc>(v * n, columns) + skipped;
      for (int64_t b = 0; b < k;) {
        const int64_t taps = taps_at_once(k - b);
        (tail ? choose<Tail<Acc>> : choose<Vec<Acc>>)(count, taps)(
            s.output_rows, v * output_size + channel * padded * n + skipped, s.mask_rows,
            v * size + b * padded * n + skipped, s.sums + b * s.sum_width + s.margin + cell, rows, padded,
            s.sum_width, k);
        b += taps;
      }
    }
  }

  template <typename V>
  static RegisterBlock choose(int64_t channels, int64_t taps) {
    constexpr int C = kChannels;
    static const RegisterBlock table[2][kMostTaps] = {
        {register_block<1, 1, V>, register_block<1, 2, V>, register_block<1, 3, V>, register_block<1, 4, V>,
         register_block<1, 5, V>},
        {register_block<C, 1, V>, register_block<C, 2, V>, register_block<C, 3, V>, register_block<C, 4, V>,
         register_block<C, 5, V>}};
    return table[channels > 1][taps - 1];
  }

  // Add the tap columns, each shifted to the feature it belongs to.
  static void add_columns(
      const Problem& p,
      const Item& item,
      const Scratch& s,
      const Cells& cells,
      Acc* target, // [columns], or a vector where there are fewer
      const Acc* sums) { // [k, sum_width]
    const int64_t k = p.kernel_size, radius = k / 2;
    // feature column x is cell (x + radius - b) / step, tap b
    if (p.step == 1) {
      const Acc* source = sums + s.margin + item.first_column + radius - cells.first_column;
      for (int64_t first = 0; first < item.columns; first += n) {
        const int64_t x = vector_start<Acc>(first, item.columns);
        Vec<Acc> sum = load(source + x);
        for (int64_t b = 1; b < k; ++b)
          sum += load(source + b * s.sum_width - b + x);
        store(target + x, sum);
      }
    } else {
      fill_zero(target, item.columns);
      for (int64_t b = 0; b < k; ++b)
        for (int64_t cell = 0; cell < cells.columns; ++cell) {
          const int64_t x = tap_position(cells.first_column + cell, p.step, b, radius) - item.first_column;
          if (x >= 0 && x < item.columns)
            target[x] += sums[b * s.sum_width + s.margin + cell];
        }
    }
  }

  static void
  write(const Problem& p, const Item& item, const Scratch& s, int64_t y, int64_t channel, int64_t count) {
    const int64_t* stride = p.features.stride;
    const int64_t base = item.image * stride[0] + channel * stride[1] + y * stride[2] +
        item.first_column * stride[3];
    if (count == n && stride[1] == 1) {
      for (int64_t x = 0; x < item.columns; x += n)
        store_channels(
            p.features, base + x * stride[3], stride[3], s.target + x, s.target_width, item.columns - x);
      return;
    }
    for (int64_t c = 0; c < count; ++c)
      store_row(p.features, base + c * stride[1], stride[3], s.target + c * s.target_width, item.columns);
  }
};

} // namespace
} // namespace carafe::CARAFE_ISA

// SPDX-License-Identifier: Apache-2.0
// B: grad_masks = sum over a group's channels of output * features, and, where the
// masks came from logits, on to the logits' gradient.
// An item is a few rows of cells (or a tile of them) of one group, with all of
// its channels: they are summed in one order whatever the threads do. All k*k
// sums of the rows wait in scratch while channels pass by in blocks that fit L1.
#pragma once

#include "masks.h"
#include "plan.h"

namespace carafe::CARAFE_ISA {
namespace {

template <typename Acc>
struct Correlate {
  static constexpr int n = kLanes<Acc>;

  struct Scratch {
    int64_t packed_channels;
    int64_t plane;
    int64_t rows; // packed feature rows of a channel
    Acc *sums, *masks, *output, *features, *row;

    Scratch(const Problem& p, const Plan& plan, Arena& arena) {
      const int64_t lanes = ceil_div(plan.tile_w, n) * n;
      const int64_t phases2 = padded_phases(p);
      const int64_t entries = mask_entries(p);
      packed_channels = plan.packed_channels;
      plane = plane_width<Acc>(p, plan.tile_w);
      rows = (plan.chunk_h - 1) * p.step + p.kernel_size;
      sums = arena.take<Acc>(plan.chunk_h * (lanes / n) * mask_vector_size<Acc>(p));
      masks = arena.take<Acc>(p.softmax ? lanes / n * mask_vector_size<Acc>(p) : 0);
      output = arena.take<Acc>(lanes / n * output_vector_size<Acc>(p, packed_channels));
      features = arena.take<Acc>(packed_channels * rows * p.step * plane);
      row = arena.take<Acc>(entries * phases2 + lanes * p.phases);
    }
  };

  static Plan plan(const Problem& p, int64_t threads) {
    const int64_t cell_bytes = mask_cell_bytes<Acc>(p); // of sums
    Plan plan{};
    plan_columns<Acc>(plan, p.cells_w, kTileBytes, cell_bytes * (p.softmax ? 2 : 1));
    // Several rows share packed features, as long as their sums stay in L2.
    plan_rows(plan, p, p.cells_h, most_rows(plan, cell_bytes), threads);
    plan.split_channels = group_channels(p);
    plan.splits = 1;
    plan.packed_channels = plan.split_channels < kPackedChannels ? plan.split_channels : kPackedChannels;
    plan_items<Scratch>(plan, p, p.phases * p.phases * mask_entries(p));
    return plan;
  }

  // T taps of one kernel row, P phases, one vector of cells; all channels of
  // the block. V is a whole vector or the upper half of one.
  template <int T, int P, typename V>
  static void register_block(
      const Acc* features, // [channels, rows, step * plane], from the first tap on
      const Acc* output, // [channels, padded phases, lanes]
      Acc* sums, // [T, padded phases, lanes]
      const int64_t* offsets, // [T] of the taps
      int64_t channels,
      int64_t feature_stride,
      int64_t padded) {
    V sum[T][P];
    CARAFE_UNROLL
    for (int t = 0; t < T; ++t) {
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        sum[t][phase] = load_as<V>(sums + (t * padded + phase) * n);
    }
    for (int64_t c = 0; c < channels; ++c) {
      V grad[P];
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase) {
        grad[phase] = load_as<V>(output + phase * n);
        CARAFE_IN_REGISTER(grad[phase]);
      }
      CARAFE_UNROLL
      for (int t = 0; t < T; ++t) {
        V feature = load_as<V>(features + offsets[t]);
        CARAFE_IN_REGISTER(feature);
        CARAFE_UNROLL
        for (int phase = 0; phase < P; ++phase) {
          sum[t][phase] += feature * grad[phase];
          CARAFE_IN_REGISTER(sum[t][phase]);
        }
      }
      features += feature_stride;
      output += padded * n;
    }
    CARAFE_UNROLL
    for (int t = 0; t < T; ++t) {
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        store(sums + (t * padded + phase) * n, sum[t][phase]);
    }
  }

  using RegisterBlock = void (*)(const Acc*, const Acc*, Acc*, const int64_t*, int64_t, int64_t, int64_t);

  // Phases of a register block here: with 16 registers two of four at a time.
  static int64_t take_phases(const Problem& p) {
    const int64_t take = phases_at_once(p);
    return take == 4 && !kManyRegisters ? 2 : take;
  }

  template <int T, typename V>
  static RegisterBlock choose(int64_t take) {
    return take == 1 ? register_block<T, 1, V>
        : take == 2  ? register_block<T, 2, V>
        : take == 3  ? register_block<T, 3, V>
                     : register_block<T, 4, V>;
  }

  // For each number of taps; the second row for the tail of a row of cells.
  using RegisterBlocks = RegisterBlock[2][kMostTaps + 1];

  static void run(const Problem& p, const Plan& plan, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, plan, arena);
    const int64_t take = take_phases(p);
    using V = Vec<Acc>;
    using H = Tail<Acc>;
    const RegisterBlocks blocks = {
        {nullptr, choose<1, V>(take), choose<2, V>(take), choose<3, V>(take), choose<4, V>(take),
         choose<5, V>(take)},
        {nullptr, choose<1, H>(take), choose<2, H>(take), choose<3, H>(take), choose<4, H>(take),
         choose<5, H>(take)}};
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, plan, index), scratch, blocks);
  }

  static void run_item(const Problem& p, const Item& item, const Scratch& s, const RegisterBlocks& blocks) {
    const int64_t k = p.kernel_size, rows = item.last_row - item.first_row;
    const int64_t padded = padded_phases(p), width = p.step * s.plane;
    const int64_t vectors = ceil_div(item.columns, n), size = mask_vector_size<Acc>(p);
    const int64_t row_size = vectors * size;
    const bool ahead = asks_ahead(p);
    fill_zero(s.sums, rows * row_size);
    fill_zero(s.features, s.packed_channels * s.rows * width);
    for (int64_t first = item.first_channel; first < item.last_channel; first += s.packed_channels) {
      int64_t count = item.last_channel - first;
      count = count < s.packed_channels ? count : s.packed_channels;
      pack_feature_rows(
          s.features, s.rows * width, s.plane, p, item.image, first, count,
          tap_position(item.first_row, p.step, 0, k / 2), (rows - 1) * p.step + k, item.first_column);
      for (int64_t row = 0; row < rows; ++row) {
        // [vectors] of [channels, padded phases, lanes]: a block reads one stream
        pack_output(
            s.output, p, item.image, first, count, item.first_row + row, item.first_column, item.columns,
            s.row);
        for (int64_t v = 0; v < vectors; ++v) {
          if (ahead && row + 1 < rows)
            prefetch_output(
                p, item.image, first, count, item.first_row + row + 1, item.first_column, item.columns, v,
                vectors);
          const bool tail = v + 1 == vectors && has_tail<Acc>(item.columns);
          const int64_t skipped = tail ? n / 2 : 0;
          accumulate(
              p, s, blocks[tail],
              s.features + row * p.step * width + vector_start<Acc>(v * n, item.columns) + skipped,
              s.output + v * output_vector_size<Acc>(p, count) + skipped,
              s.sums + row * row_size + v * size + skipped, count);
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      Acc* sums = s.sums + row * row_size;
      if (p.softmax) {
        pack_masks(
            s.masks, p, item.image, item.group, item.first_row + row, item.first_column, item.columns, s.row);
        for (int64_t v = 0; v < vectors; ++v)
          softmax_backward(sums + v * size, s.masks + v * size, k * k, padded);
      }
      unpack_masks(
          sums, p, item.image, item.group, item.first_row + row, item.first_column, item.columns, s.row);
    }
  }

  // One vector of cells of one row, for a block of channels.
  static void accumulate(
      const Problem& p,
      const Scratch& s,
      const RegisterBlock (&blocks)[kMostTaps + 1],
      const Acc* tile, // [channels, rows, step * plane], from the first tap on
      const Acc* output, // [channels, padded phases, lanes]
      Acc* sums, // [k * k, padded phases, lanes]
      int64_t channels) {
    const int64_t k = p.kernel_size, padded = padded_phases(p);
    const int64_t take = take_phases(p), width = p.step * s.plane;
    for (int64_t a = 0; a < k; ++a) {
      const Acc* features = tile + a * width;
      for (int64_t b = 0; b < k;) {
        const int64_t taps = taps_at_once(k - b);
        int64_t offsets[kMostTaps];
        for (int64_t t = 0; t < taps; ++t)
          offsets[t] = tap_offset(b + t, p.step, s.plane);
        for (int64_t phase = 0; phase < padded; phase += take)
          blocks[taps](
              features, output + phase * n, sums + ((a * k + b) * padded + phase) * n, offsets, channels,
              s.rows * width, padded);
        b += taps;
      }
    }
  }
};

} // namespace
} // namespace carafe::CARAFE_ISA

// SPDX-License-Identifier: Apache-2.0
// A for features and output in channels_last: lanes are channels, and each
// weight is one number for all of them. Masks are packed as for the other
// layout (their lanes are cells); features are copied, zero-padded, with the
// channels of a register block together, so that no tap needs a border test.
#pragma once

#include "masks.h"
#include "plan.h"

namespace carafe::CARAFE_ISA {
namespace {

template <typename Acc>
struct ReassembleLast {
  static constexpr int n = kLanes<Acc>;
  static constexpr int kVectors = kManyRegisters ? 4 : 2; // of a register block
  static constexpr int64_t kRows = 4; // of cells, that share packed features
  static constexpr int64_t kColumnBytes = 512 << 10; // of masks and features of a tile: they stay in L2
  static constexpr int64_t kLeastBlocks = 4; // register blocks of channels in a split

  struct Scratch {
    int64_t columns; // packed feature columns
    Acc *masks, *features, *pixel, *row;

    Scratch(const Problem& p, const Plan& plan, Arena& arena) {
      const int64_t lanes = ceil_div(plan.tile_w, n) * n;
      const int64_t entries = mask_entries(p);
      const int64_t rows = (plan.chunk_h - 1) * p.step + p.kernel_size;
      columns = (plan.tile_w - 1) * p.step + p.kernel_size;
      masks = arena.take<Acc>(plan.chunk_h * (lanes / n) * mask_vector_size<Acc>(p));
      features = arena.take<Acc>(rows * columns * kVectors * n);
      pixel = arena.take<Acc>(kVectors * n);
      row = arena.take<Acc>(entries * padded_phases(p) + lanes * p.phases);
    }
  };

  static Plan plan(const Problem& p, int64_t threads) {
    const int64_t rows = kRows < p.cells_h ? kRows : p.cells_h;
    const int64_t feature_bytes = ((rows - 1) * p.step + p.kernel_size) * p.step * kVectors * kVectorBytes;
    Plan plan{};
    plan_columns<Acc>(plan, p.cells_w, kColumnBytes, rows * mask_cell_bytes<Acc>(p) + feature_bytes);
    plan_rows(plan, p, p.cells_h, kRows, threads);
    plan_splits(plan, p, threads, kLeastBlocks * kVectors * n);
    plan_items<Scratch>(plan, p, p.phases * p.phases * mask_entries(p));
    return plan;
  }

  // One cell, V vectors of channels, P phases of all. K > 0 fixes the kernel size.
  template <int K, int V, int P>
  CARAFE_INLINE void register_block(
      const Acc* features, // [rows, columns, V * lanes], from the first tap on
      const Acc* masks, // [k * k, padded phases, lanes], from the cell's lane on
      int64_t kernel_size,
      int64_t row_stride,
      int64_t padded,
      Vec<Acc> (&result)[P][V]) {
    const int64_t k = K ? K : kernel_size;
    Vec<Acc> sum[P][V] = {};
    for (int64_t a = 0; a < k; ++a) {
      const Acc* tap = features + a * row_stride;
      for (int64_t b = 0; b < k; ++b, tap += V * n, masks += padded * n) {
        Vec<Acc> feature[V];
        CARAFE_UNROLL
        for (int v = 0; v < V; ++v) {
          feature[v] = load(tap + v * n);
          CARAFE_IN_REGISTER(feature[v]);
        }
        CARAFE_UNROLL
        for (int phase = 0; phase < P; ++phase) {
          Vec<Acc> weight = splat<Acc>(masks[phase * n]);
          CARAFE_IN_REGISTER(weight);
          CARAFE_UNROLL
          for (int v = 0; v < V; ++v)
            sum[phase][v] += weight * feature[v];
        }
      }
    }
    CARAFE_UNROLL
    for (int phase = 0; phase < P; ++phase) {
      CARAFE_UNROLL
      for (int v = 0; v < V; ++v)
        result[phase][v] = sum[phase][v];
    }
  }

  static void run(const Problem& p, const Plan& plan, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, plan, arena);
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, plan, index), scratch);
  }

  static void run_item(const Problem& p, const Item& item, const Scratch& s) {
    const int64_t rows = item.last_row - item.first_row;
    const int64_t row_size = ceil_div(item.columns, n) * mask_vector_size<Acc>(p);
    for (int64_t row = 0; row < rows; ++row)
      pack_masks(
          s.masks + row * row_size, p, item.image, item.group, item.first_row + row, item.first_column,
          item.columns, s.row);
    for (int64_t channel = item.first_channel; channel < item.last_channel;) {
      const int64_t rest = item.last_channel - channel;
      const int64_t count = rest < kVectors * n ? rest : kVectors * n;
      const int64_t vectors = ceil_div(count, n);
      if (vectors == 1)
        run_channels<1>(p, item, s, channel, count);
      else if (vectors == 2)
        run_channels<2>(p, item, s, channel, count);
      else
        run_channels<kVectors>(p, item, s, channel, count);
      channel += count;
    }
  }

  template <int V>
  static void
  run_channels(const Problem& p, const Item& item, const Scratch& s, int64_t channel, int64_t count) {
    const int64_t rows = (item.last_row - item.first_row - 1) * p.step + p.kernel_size;
    for (int64_t a = 0; a < rows; ++a)
      pack_row<V>(
          s.features + a * s.columns * V * n, p, item, channel, count,
          tap_position(item.first_row, p.step, a, p.kernel_size / 2));
    switch (phases_at_once(p)) {
      case 1:
        return run_phases<0, V, 1>(p, item, s, channel, count);
      case 3:
        return run_phases<0, V, 3>(p, item, s, channel, count);
      default:
        return p.kernel_size == 5 ? run_phases<5, V, 4>(p, item, s, channel, count)
                                  : run_phases<0, V, 4>(p, item, s, channel, count);
    }
  }

  // A feature row for the columns of the item; zeros outside the map, and in
  // lanes past the last channel.
  template <int V>
  static void pack_row(
      Acc* target, // [columns, V * lanes]
      const Problem& p,
      const Item& item,
      int64_t channel,
      int64_t count,
      int64_t y) {
    const int64_t* stride = p.features.stride;
    const int64_t used = (item.columns - 1) * p.step + p.kernel_size;
    if (y < 0 || y >= p.in_h)
      return fill_zero(target, used * V * n);
    const int64_t base = item.image * stride[0] + channel * stride[1] + y * stride[2];
    const bool direct = count == V * n && is_dense<Acc>(p.features, 1);
    for (int64_t l = 0; l < used; ++l, target += V * n) {
      const int64_t x = tap_position(item.first_column, p.step, l, p.kernel_size / 2);
      if (x < 0 || x >= p.in_w) {
        fill_zero(target, V * n);
      } else if (direct) {
        const Acc* source = (const Acc*)p.features.data + base + x * stride[3];
        CARAFE_UNROLL
        for (int v = 0; v < V; ++v)
          store(target + v * n, load(source + v * n));
      } else {
        load_row(target, p.features, base + x * stride[3], 1, count);
        fill_zero(target + count, V * n - count);
      }
    }
  }

  // Asks for most of what pack_row will read of the next channels, a share for each cell.
  CARAFE_INLINE void
  prefetch_share(const Problem& p, const Item& item, int64_t channel, int64_t row, int64_t cell) {
    const int64_t* stride = p.features.stride;
    const int64_t radius = p.kernel_size / 2, rows = item.last_row - item.first_row;
    const int64_t used = (rows - 1) * p.step + p.kernel_size;
    const int64_t size = element_size(p.features.dtype);
    const int64_t x = tap_position(item.first_column + cell, p.step, 0, radius) + radius;
    for (int64_t a = row * used / rows; a < (row + 1) * used / rows; ++a) {
      const int64_t y = tap_position(item.first_row, p.step, a, radius);
      if (y < 0 || y >= p.in_h)
        continue;
      const char* source = (const char*)p.features.data +
          (item.image * stride[0] + channel + y * stride[2] + x * stride[3]) * size;
      for (int64_t byte = 0; byte < kVectors * n * size; byte += kCacheLine)
        __builtin_prefetch(source + byte, 0, 2);
    }
  }

  template <int K, int V, int P>
  static void
  run_phases(const Problem& p, const Item& item, const Scratch& s, int64_t channel, int64_t count) {
    const int64_t padded = padded_phases(p), size = mask_vector_size<Acc>(p);
    const int64_t row_stride = s.columns * V * n;
    const int64_t vectors = ceil_div(item.columns, n);
    const int64_t* stride = p.output.stride;
    const bool direct = count == V * n && is_dense<Acc>(p.output, 1);
    const bool ahead = asks_ahead(p) && channel + 2 * count <= item.last_channel;
    for (int64_t row = item.first_row; row < item.last_row; ++row)
      for (int64_t cell = 0; cell < item.columns; ++cell) {
        const int64_t local = row - item.first_row;
        if (ahead)
          prefetch_share(p, item, channel + count, local, cell);
        const Acc* features = s.features + local * p.step * row_stride + cell * p.step * V * n;
        const int64_t vector = cell / n;
        const Acc* masks = s.masks + (local * vectors + vector) * size + cell -
            vector_start<Acc>(vector * n, item.columns);
        const int64_t base = item.image * stride[0] + channel * stride[1];
        const auto pixel = [&](int64_t phase) { // offset of its first channel
          const int64_t q = p.phases == 2 ? phase >> 1 : phase / p.phases;
          return base + (row * p.phases + q) * stride[2] +
              ((item.first_column + cell) * p.phases + phase - q * p.phases) * stride[3];
        };
        for (int64_t first = 0; first < padded; first += P) {
          if (direct && padded == P) // the lines arrive while the block computes
            for (int phase = 0; phase < P; ++phase)
              for (int byte = 0; byte < V * kVectorBytes; byte += kCacheLine)
                __builtin_prefetch((const char*)((Acc*)p.output.data + pixel(phase)) + byte, 1);
          Vec<Acc> sum[P][V];
          register_block<K, V, P>(features, masks + first * n, p.kernel_size, row_stride, padded, sum);
          CARAFE_UNROLL
          for (int i = 0; i < P; ++i) {
            if (first + i >= p.phases * p.phases) // padding of the list of phases
              continue;
            const int64_t at = pixel(first + i);
            Acc* target = direct ? (Acc*)p.output.data + at : s.pixel;
            CARAFE_UNROLL
            for (int v = 0; v < V; ++v)
              store(target + v * n, sum[i][v]);
            if (!direct)
              store_row(p.output, at, 1, s.pixel, count);
          }
        }
      }
  }
};

} // namespace
} // namespace carafe::CARAFE_ISA

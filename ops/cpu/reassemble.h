// SPDX-License-Identifier: Apache-2.0
// A: output = sum over taps of masks * features.
// An item is a few rows of cells (or a tile of them) of one group, for some
// channels. The masks are packed once, then for each few channels the feature
// rows; lanes are cells, and each phase has accumulators of its own.
#pragma once

#include <type_traits>

#include "masks.h"
#include "plan.h"

namespace carafe::CARAFE_ISA {
namespace {

template <typename Acc>
struct Reassemble {
  static constexpr int n = kLanes<Acc>;
  static constexpr int kChannels = kManyRegisters ? 4 : 3; // of a register block

  struct Scratch {
    int64_t plane;
    int64_t rows; // packed feature rows of a channel
    Acc *masks, *features, *joined, *output, *pixels, *row;

    Scratch(const Problem& p, const Plan& plan, Arena& arena) {
      const int64_t lanes = ceil_div(plan.tile_w, n) * n;
      const int64_t phases2 = padded_phases(p);
      const int64_t entries = mask_entries(p);
      plane = plane_width<Acc>(p, plan.tile_w);
      rows = (plan.chunk_h - 1) * p.step + p.kernel_size;
      masks = arena.take<Acc>(plan.chunk_h * (lanes / n) * mask_vector_size<Acc>(p));
      features = arena.take<Acc>(kChannels * rows * p.step * plane);
      joined = arena.take<Acc>(dots(p) ? kChannels * rows * plane : 0);
      output = arena.take<Acc>(kChannels * phases2 * n);
      pixels = arena.take<Acc>(kChannels * p.phases * p.phases * lanes);
      row = arena.take<Acc>(entries * phases2 + lanes * p.phases);
    }
  };

  // bfloat16 alone, k = 5, s = 2: two taps at a time. A lane is then a pair of
  // neighbours in a row, of features or of masks; the fifth tap goes alone.
  static bool dots(const Problem& p) {
    return kDots && sizeof(Acc) == 4 && p.features.dtype == Dtype::kBFloat16 &&
        p.masks.dtype == Dtype::kBFloat16 && p.output.dtype == Dtype::kBFloat16 && !p.softmax &&
        p.phases == 2 && p.step == 1 && p.kernel_size == 5;
  }

  // From packed values to pairs. Features: each with its right neighbour; the last one's
  // lies beyond them, in a pair that no tap reads.
  static void join_features(Acc* target, const Acc* source, int64_t count) {
    if constexpr (kDots && sizeof(Acc) == 4)
      for (int64_t i = 0; i < count; i += n)
        store(target + i, join(load(source + i), load(source + i + 1)));
  }
  // Masks, in place: [k * k, phases^2, lanes] to [k, 3, phases^2, lanes].
  static void join_masks(Acc* masks, const Problem& p, int64_t vectors) {
    if constexpr (kDots && sizeof(Acc) == 4) {
      const int64_t k = p.kernel_size, entry = padded_phases(p) * n;
      for (int64_t v = 0; v < vectors; ++v) {
        Acc* source = masks + v * mask_vector_size<Acc>(p);
        Acc* target = source;
        for (int64_t a = 0; a < k; ++a)
          for (int64_t b = 0; b < k; b += 2, target += entry)
            for (int64_t i = 0; i < entry; i += n) {
              const Acc* tap = source + (a * k + b) * entry + i;
              store(target + i, join(load(tap), b + 1 < k ? load(tap + entry) : Vec<Acc>{}));
            }
      }
    }
  }

  static Plan plan(const Problem& p, int64_t threads) {
    Plan plan{};
    plan_columns<Acc>(plan, p.cells_w, kTileBytes, mask_cell_bytes<Acc>(p));
    // Several rows share packed features, as long as their masks stay well
    // within L2 and the features of a register block within L1.
    plan_rows(plan, p, p.cells_h, most_rows(plan, mask_cell_bytes<Acc>(p)), threads);
    plan_splits(plan, p, threads, kLeastSplit);
    plan_items<Scratch>(plan, p, p.phases * p.phases * mask_entries(p));
    return plan;
  }

  // Where a register block of C channels and P phases leaves its sums: two rows of
  // neighbouring pixels of any type, or vectors of one phase.
  struct Target {
    void* data;
    int64_t channel, row; // strides
    bool pixels;
    int64_t cells; // of a vector that is not full
    // Two rows of output pixels that will be written soon, null if they do not lie
    // together: their lines arrive while the block computes.
    const char* lines;
    int64_t line_channel, line_row; // strides in bytes
  };

  template <typename Out>
  CARAFE_INLINE void prefetch_lines(const char* lines, int64_t row) {
    CARAFE_UNROLL
    for (int byte = 0; byte < 2 * n * int(sizeof(Out)); byte += kCacheLine) {
      __builtin_prefetch(lines + byte, 1);
      __builtin_prefetch(lines + row + byte, 1);
    }
  }

  // One vector of cells, C channels, P phases of all. K > 0 fixes the kernel
  // size, of the up map only. Pairs: see dots().
  template <int K, int C, int P, typename Out, Lanes lanes = Lanes::kAll, bool pairs = false>
  static void register_block(
      const Acc* features, // [C, rows, step * plane], from the first tap on
      const Acc* masks, // [k * k, padded phases, lanes]; of pairs [k, 3, phases^2, lanes]
      const Target& target,
      const Problem& p,
      int64_t plane,
      int64_t channel_stride, // of features
      int64_t padded) {
    using V = std::conditional_t<lanes == Lanes::kUpper, Tail<Acc>, Vec<Acc>>;
    const int64_t k = K ? K : p.kernel_size;
    const int64_t width = K ? plane : p.step * plane;
    V sum[C][P] = {};
    for (int64_t a = 0; a < k; ++a) {
      const Acc* tap_row = features + a * width;
      // A few at a time: asked for together they would keep the loads waiting.
      for (int64_t c = a; target.lines && c < C; c += k)
        prefetch_lines<Out>(target.lines + c * target.line_channel, target.line_row);
      _Pragma("GCC unroll 5") for (int64_t b = 0; b < k; b += pairs ? 2 : 1) {
        const Acc* tap = tap_row + (K ? b : tap_offset(b, p.step, plane));
        V feature[C];
        CARAFE_UNROLL
        for (int c = 0; c < C; ++c) {
          feature[c] = load_as<V>(tap + c * channel_stride);
          if constexpr (pairs)
            feature[c] = b + 1 < k ? feature[c] : first_alone(feature[c]);
          CARAFE_IN_REGISTER(feature[c]);
        }
        CARAFE_UNROLL
        for (int phase = 0; phase < P; ++phase) {
          V weight = load_as<V>(masks + phase * n);
          CARAFE_IN_REGISTER(weight);
          CARAFE_UNROLL
          for (int c = 0; c < C; ++c) {
            if constexpr (pairs)
              sum[c][phase] = dot(sum[c][phase], feature[c], weight);
            else
              sum[c][phase] += feature[c] * weight;
            CARAFE_IN_REGISTER(sum[c][phase]);
          }
        }
        masks += padded * n;
      }
    }
    if constexpr (P == 4)
      if (target.pixels) {
        Vec<Acc> done[C][P];
        CARAFE_UNROLL
        for (int c = 0; c < C; ++c) {
          CARAFE_UNROLL
          for (int phase = 0; phase < P; ++phase)
            done[c][phase] = whole<Acc>(sum[c][phase], AllLanes<Acc>{});
        }
        // By way of memory, or the conversion takes registers from the loop above.
        if constexpr (kIs16Bit<Out> && !kManyRegisters)
          __asm__("" : "+m"(done));
        CARAFE_UNROLL
        for (int c = 0; c < C; ++c) {
          CARAFE_UNROLL
          for (int q = 0; q < 2; ++q)
            store_pair<Acc, lanes>(
                (Out*)target.data + c * target.channel + q * target.row, done[c][2 * q], done[c][2 * q + 1],
                target.cells);
        }
        return;
      }
    CARAFE_UNROLL
    for (int c = 0; c < C; ++c) {
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        store((Acc*)target.data + c * target.channel + phase * n, sum[c][phase]);
    }
  }

  using RegisterBlock =
      void (*)(const Acc*, const Acc*, const Target&, const Problem&, int64_t, int64_t, int64_t);
  // To scratch; to the output: whole vectors, the tail, few cells. For one channel or more.
  using RegisterBlocks = RegisterBlock[4][2];

  template <int C, typename Out, Lanes lanes = Lanes::kAll>
  static RegisterBlock choose(const Problem& p) {
    if constexpr (kDots && sizeof(Acc) == 4)
      if (dots(p))
        return register_block<5, C, 4, std::conditional_t<kIs16Bit<Out>, FlushedBFloat16, Out>, lanes, true>;
    const bool five = p.kernel_size == 5 && p.step == 1;
    switch (phases_at_once(p)) {
      case 1:
        return register_block<0, C, 1, Acc>;
      case 3:
        return register_block<0, C, 3, Acc>;
      default:
        return five ? register_block<5, C, 4, Out, lanes> : register_block<0, C, 4, Out, lanes>;
    }
  }

  // The register block that writes the output's dtype, where it can.
  template <int C, Lanes lanes = Lanes::kAll>
  static RegisterBlock choose_direct(const Problem& p) {
    if constexpr (sizeof(Acc) == 4) {
      if (p.output.dtype == Dtype::kHalf)
        return choose<C, Half, lanes>(p);
      if (p.output.dtype == Dtype::kBFloat16)
        return choose<C, BFloat16, lanes>(p);
    }
    return choose<C, Acc, lanes>(p);
  }

  static void run(const Problem& p, const Plan& plan, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, plan, arena);
    constexpr Lanes kTail = kAvx512 ? Lanes::kUpper : Lanes::kAll; // the others are not used
    constexpr Lanes kFew = kAvx512 ? Lanes::kFirst : Lanes::kAll;
    const RegisterBlocks blocks = {
        {choose<1, Acc>(p), choose<kChannels, Acc>(p)},
        {choose_direct<1>(p), choose_direct<kChannels>(p)},
        {choose_direct<1, kTail>(p), choose_direct<kChannels, kTail>(p)},
        {choose_direct<1, kFew>(p), choose_direct<kChannels, kFew>(p)}};
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, plan, index), scratch, blocks);
  }

  static void run_item(const Problem& p, const Item& item, const Scratch& s, const RegisterBlocks& blocks) {
    const int64_t rows = item.last_row - item.first_row;
    const int64_t row_size = ceil_div(item.columns, n) * mask_vector_size<Acc>(p);
    const int64_t width = p.step * s.plane;
    const bool ahead = asks_ahead(p), joins = dots(p);
    for (int64_t row = 0; row < rows; ++row)
      pack_masks(
          s.masks + row * row_size, p, item.image, item.group, item.first_row + row, item.first_column,
          item.columns, s.row);
    if (joins)
      join_masks(s.masks, p, rows * ceil_div(item.columns, n));
    fill_zero(s.features, kChannels * s.rows * width);
    for (int64_t channel = item.first_channel; channel < item.last_channel;) {
      const int64_t count = item.last_channel - channel >= kChannels ? kChannels : 1;
      const int64_t used = (rows - 1) * p.step + p.kernel_size;
      pack_feature_rows(
          s.features, s.rows * width, s.plane, p, item.image, channel, count,
          tap_position(item.first_row, p.step, 0, p.kernel_size / 2), used, item.first_column);
      for (int64_t c = 0; joins && c < count; ++c)
        join_features(s.joined + c * s.rows * width, s.features + c * s.rows * width, used * width);
      for (int64_t row = 0; row < rows; ++row) {
        // A share of the features of the next channels, while this row computes.
        const int64_t share = row * used / rows, after = channel + count;
        if (ahead && after + count <= item.last_channel)
          prefetch_features(
              p, item.image, after, count, tap_position(item.first_row, p.step, share, p.kernel_size / 2),
              (row + 1) * used / rows - share, item.first_column, item.columns);
        run_row(
            p, item, s, blocks, (joins ? s.joined : s.features) + row * p.step * width,
            s.masks + row * row_size, item.first_row + row, channel, count);
      }
      channel += count;
    }
  }

  static void run_row(
      const Problem& p,
      const Item& item,
      const Scratch& s,
      const RegisterBlocks& blocks,
      const Acc* features, // [count, rows, step * plane], from the first tap on
      const Acc* masks, // [vectors, k * k, padded phases, lanes]
      int64_t row,
      int64_t first_channel,
      int64_t count) {
    const int64_t padded = padded_phases(p), take = phases_at_once(p);
    const int64_t channel_stride = s.rows * p.step * s.plane;
    const int64_t* stride = p.output.stride;
    const int64_t base = item.image * stride[0] + first_channel * stride[1] + row * p.phases * stride[2] +
        item.first_column * p.phases * stride[3];
    // Vectors of pixels that lie together go straight out, all else through a row of
    // pixels.
    const bool pairs = p.phases == 2, few = item.columns < n;
    const bool direct = pairs && stride[3] == 1 && (kAvx512 || !few) &&
        (sizeof(Acc) == 4 || p.output.dtype == Dtype::kDouble);
    const RegisterBlock block = blocks[!direct ? 0 : few ? 3 : 1][count > 1];
    const RegisterBlock tail = blocks[2][count > 1];
    const int64_t upper = direct && has_tail<Acc>(item.columns) ? item.columns - n : item.columns;
    const int64_t pixel_row = ceil_div(item.columns, n) * n * p.phases;
    const int64_t size = stride[3] == 1 && pairs ? element_size(p.output.dtype) : 0;
    for (int64_t first = 0; first < item.columns; first += n) {
      const int64_t cell = vector_start<Acc>(first, item.columns);
      char* pixels = (char*)p.output.data + (base + 2 * cell) * size; // if they lie together
      Target target{s.pixels + 2 * cell, 2 * pixel_row,
                    pixel_row,           true,
                    item.columns,        size ? pixels + 2 * n * size : nullptr,
                    stride[1] * size,    stride[2] * size};
      if (direct) {
        target.data = pixels;
        target.channel = stride[1];
        target.row = stride[2];
      }
      if (pairs) {
        if (cell < upper)
          block(features + cell, masks, target, p, s.plane, channel_stride, padded);
        else
          tail(features + cell + n / 2, masks + n / 2, target, p, s.plane, channel_stride, padded);
      } else {
        for (int64_t phase = 0; phase < padded; phase += take) {
          const Target vectors{s.output + phase * n, padded * n, 0, false, 0, nullptr, 0, 0};
          block(features + cell, masks + phase * n, vectors, p, s.plane, channel_stride, padded);
        }
        for (int64_t c = 0; c < count; ++c)
          for (int64_t q = 0; q < p.phases; ++q)
            unpack_vectors(
                s.pixels + (c * p.phases + q) * pixel_row + cell * p.phases,
                s.output + (c * padded + q * p.phases) * n, p.phases);
      }
      masks += mask_vector_size<Acc>(p);
    }
    if (direct)
      return;
    for (int64_t c = 0; c < count; ++c)
      for (int64_t q = 0; q < p.phases; ++q)
        store_row(
            p.output, base + c * stride[1] + q * stride[2], stride[3],
            s.pixels + (c * p.phases + q) * pixel_row, item.columns * p.phases);
  }
};

} // namespace
} // namespace carafe::CARAFE_ISA

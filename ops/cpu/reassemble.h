// SPDX-License-Identifier: Apache-2.0
// A: output = sum over taps of masks * features.
// An item is a row of cells (or a tile of it) of one group, for some channels.
// The weights of the row are packed once, then for each few channels the k
// feature rows; lanes are cells, and each phase has accumulators of its own.
// Included by kernels.cpp only, inside its anonymous namespace.

template <typename Acc>
struct Reassemble {
  static constexpr int n = kLanes<Acc>;
  static constexpr int kChannels = kManyRegisters ? 4 : 2; // of a register block

  struct Scratch {
    int64_t plane;
    Acc *weights, *features, *output, *row;

    Scratch(const Params& p, Arena& arena) {
      const int64_t lanes = ceil_div(p.tile_w, n) * n;
      const int64_t phases2 = padded_phases(p);
      const int64_t entries = p.kernel_size * p.kernel_size;
      plane = plane_width<Acc>(p, p.tile_w);
      weights = arena.take<Acc>(lanes / n * weight_block_size<Acc>(p));
      features = arena.take<Acc>(kChannels * p.kernel_size * p.step * plane);
      output = arena.take<Acc>(kChannels * phases2 * n);
      row = arena.take<Acc>(entries * phases2 + lanes * p.phases);
    }
  };

  static void plan(Params& p, int64_t threads) {
    const int64_t column = weight_block_size<Acc>(p) / n * int64_t(sizeof(Acc));
    plan_columns<Acc>(p, p.cells_w, 640 << 10, column);
    plan_rows(p, p.cells_h, 1);
    plan_splits(p, threads, 32);
    p.items = p.batch * p.chunks * p.tiles * p.groups * p.splits;
    p.item_work = p.tile_w * p.split_channels * p.phases * p.phases *
        p.kernel_size * p.kernel_size;
    Arena arena{0};
    Scratch scratch(p, arena);
    p.scratch_bytes = arena.used;
  }

  // One vector of cells, C channels, P phases of all. K > 0 fixes the kernel
  // size, of the up map only.
  template <int K, int C, int P>
  static void block(
      const Acc* features, // [C, k, step * plane]
      const Acc* weights, // [k * k, padded phases, lanes]
      Acc* output, // [C, padded phases, lanes]
      const Params& p,
      int64_t plane,
      int64_t padded) {
    const int64_t k = K ? K : p.kernel_size;
    const int64_t width = K ? plane : p.step * plane;
    Vec<Acc> sum[C][P] = {};
    for (int64_t a = 0; a < k; ++a) {
      const Acc* tap_row = features + a * width;
      for (int64_t b = 0; b < k; ++b) {
        const Acc* tap = tap_row + (K ? b : tap_offset(b, p.step, plane));
        Vec<Acc> weight[P];
        CARAFE_UNROLL
        for (int phase = 0; phase < P; ++phase)
          weight[phase] = load(weights + phase * n);
        CARAFE_UNROLL
        for (int c = 0; c < C; ++c) {
          const Vec<Acc> feature = load(tap + c * k * width);
          CARAFE_UNROLL
          for (int phase = 0; phase < P; ++phase)
            sum[c][phase] += feature * weight[phase];
        }
        weights += padded * n;
      }
    }
    CARAFE_UNROLL
    for (int c = 0; c < C; ++c)
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        store(output + (c * padded + phase) * n, sum[c][phase]);
  }

  using Block = void (*)(const Acc*, const Acc*, Acc*, const Params&, int64_t, int64_t);

  template <int C>
  static Block choose(const Params& p) {
    const bool five = p.kernel_size == 5 && p.step == 1;
    switch (phase_block(p)) {
      case 1:
        return block<0, C, 1>;
      case 3:
        return block<0, C, 3>;
      default:
        return five ? block<5, C, 4> : block<0, C, 4>;
    }
  }

  static void run(const Params& p, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, arena);
    const Block blocks[2] = {choose<1>(p), choose<kChannels>(p)};
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, index), scratch, blocks);
  }

  static void run_item(
      const Params& p,
      const Item& item,
      const Scratch& s,
      const Block* blocks) {
    const int64_t row = item.first_row;
    const int64_t padded = padded_phases(p), take = phase_block(p);
    pack_weights(
        s.weights, p, item.image, item.group, row, item.first_column, item.columns, s.row);
    for (int64_t channel = item.first_channel; channel < item.last_channel;) {
      const bool full = item.last_channel - channel >= kChannels;
      const int64_t count = full ? kChannels : 1;
      const int64_t width = p.step * s.plane;
      for (int64_t c = 0; c < count; ++c)
        for (int64_t a = 0; a < p.kernel_size; ++a)
          pack_features(
              s.features + (c * p.kernel_size + a) * width,
              s.plane,
              p,
              item.image,
              channel + c,
              tap_position(row, p.step, a, p.kernel_size / 2),
              item.first_column);
      const Acc* weights = s.weights;
      for (int64_t cell = 0; cell < item.columns; cell += n) {
        for (int64_t phase = 0; phase < padded; phase += take)
          blocks[full](
              s.features + cell,
              weights + phase * n,
              s.output + phase * n,
              p,
              s.plane,
              padded);
        weights += weight_block_size<Acc>(p);
        const int64_t lanes = item.columns - cell < n ? item.columns - cell : n;
        for (int64_t c = 0; c < count; ++c)
          write(p, item, channel + c, row, item.first_column + cell, lanes, s.output + c * padded * n, s.row);
      }
      channel += count;
    }
  }

  static void write(
      const Params& p,
      const Item& item,
      int64_t channel,
      int64_t row,
      int64_t cell,
      int64_t lanes,
      const Acc* source, // [padded phases, lanes]
      Acc* scratch) { // [lanes * phases]
    const int64_t* stride = p.output.stride;
    const int64_t base = item.image * stride[0] + channel * stride[1] +
        row * p.phases * stride[2] + cell * p.phases * stride[3];
    for (int64_t q = 0; q < p.phases; ++q)
      unpack_phases(
          p.output,
          base + q * stride[2],
          stride[3],
          source + q * p.phases * n,
          p.phases,
          lanes,
          scratch);
  }
};

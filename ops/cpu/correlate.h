// SPDX-License-Identifier: Apache-2.0
// B: masks = sum over a group's channels of output * features, and, where the
// masks came from logits, on to the logits' gradient.
// An item is a few rows of cells (or a tile of them) of one group, with all of
// its channels: they are summed in one order whatever the threads do. All k*k
// sums of the rows wait in scratch while channels pass by in blocks that fit L1.
// Included by kernels.cpp only, inside its anonymous namespace.

template <typename Acc>
struct Correlate {
  static constexpr int n = kLanes<Acc>;

  struct Scratch {
    int64_t plane;
    int64_t rows; // packed feature rows of a channel
    Acc *sums, *weights, *output, *features, *row;

    Scratch(const Params& p, Arena& arena) {
      const int64_t lanes = ceil_div(p.tile_w, n) * n;
      const int64_t phases2 = padded_phases(p);
      const int64_t entries = p.kernel_size * p.kernel_size;
      plane = plane_width<Acc>(p, p.tile_w);
      rows = (p.chunk_h - 1) * p.step + p.kernel_size;
      sums = arena.take<Acc>(p.chunk_h * (lanes / n) * weight_block_size<Acc>(p));
      weights = arena.take<Acc>(p.softmax ? lanes / n * weight_block_size<Acc>(p) : 0);
      output = arena.take<Acc>(lanes / n * output_block_size<Acc>(p, p.block_channels));
      features = arena.take<Acc>(p.block_channels * rows * p.step * plane);
      row = arena.take<Acc>(entries * phases2 + lanes * p.phases);
    }
  };

  static void plan(Params& p, int64_t threads) {
    const int64_t column = weight_block_size<Acc>(p) / n * int64_t(sizeof(Acc));
    plan_columns<Acc>(p, p.cells_w, 640 << 10, column * (p.softmax ? 2 : 1));
    // Several rows share packed features, as long as their sums stay in L2.
    const int64_t most = (256 << 10) / (column * p.tile_w);
    plan_rows(p, p.cells_h, most < 1 ? 1 : most < 8 ? most : 8, threads);
    p.split_channels = p.channels / p.groups;
    p.splits = 1;
    // 32 channels of one vector of cells are 8 KB of output and 20 KB of
    // feature lines (k = 5, s = 2): together they fit in 32 KB.
    p.block_channels = p.split_channels < 32 ? p.split_channels : 32;
    p.items = p.batch * p.chunks * p.tiles * p.groups;
    p.item_work = p.chunk_h * p.tile_w * p.split_channels * p.phases * p.phases *
        p.kernel_size * p.kernel_size;
    Arena arena{0};
    Scratch scratch(p, arena);
    p.scratch_bytes = arena.used;
  }

  // T taps of one kernel row, P phases, one vector of cells; all channels of
  // the block. V is a whole vector or the upper half of one.
  template <int T, int P, typename V>
  static void block(
      const Acc* features, // [channels, rows, step * plane], from the first tap on
      const Acc* output, // [channels, padded phases, lanes]
      Acc* sums, // [T, padded phases, lanes]
      const int64_t* offsets, // [T] of the taps
      int64_t channels,
      int64_t feature_stride,
      int64_t padded) {
    V sum[T][P];
    CARAFE_UNROLL
    for (int t = 0; t < T; ++t)
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        sum[t][phase] = load_as<V>(sums + (t * padded + phase) * n);
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
    for (int t = 0; t < T; ++t)
      CARAFE_UNROLL
      for (int phase = 0; phase < P; ++phase)
        store(sums + (t * padded + phase) * n, sum[t][phase]);
  }

  using Block =
      void (*)(const Acc*, const Acc*, Acc*, const int64_t*, int64_t, int64_t, int64_t);

  // Phases of a register block: with 16 registers two of four at a time.
  static int64_t take_phases(const Params& p) {
    const int64_t take = phase_block(p);
    return take == 4 && !kManyRegisters ? 2 : take;
  }

  template <int T, typename V>
  static Block choose(int64_t take) {
    return take == 1 ? block<T, 1, V>
        : take == 2  ? block<T, 2, V>
        : take == 3  ? block<T, 3, V>
                     : block<T, 4, V>;
  }

  // For each number of taps; the second row for the tail of a row of cells.
  using Blocks = Block[2][6];

  static void run(const Params& p, int64_t begin, int64_t end, void* memory) {
    Arena arena{uintptr_t(memory)};
    const Scratch scratch(p, arena);
    const int64_t take = take_phases(p);
    using V = Vec<Acc>;
    using H = Tail<Acc>;
    const Blocks blocks = {
        {nullptr, choose<1, V>(take), choose<2, V>(take), choose<3, V>(take), choose<4, V>(take),
         choose<5, V>(take)},
        {nullptr, choose<1, H>(take), choose<2, H>(take), choose<3, H>(take), choose<4, H>(take),
         choose<5, H>(take)}};
    for (int64_t index = begin; index < end; ++index)
      run_item(p, item_at(p, index), scratch, blocks);
  }

  static void run_item(
      const Params& p,
      const Item& item,
      const Scratch& s,
      const Blocks& blocks) {
    const int64_t k = p.kernel_size, rows = item.last_row - item.first_row;
    const int64_t padded = padded_phases(p), width = p.step * s.plane;
    const int64_t vectors = ceil_div(item.columns, n), size = weight_block_size<Acc>(p);
    const int64_t row_size = vectors * size;
    const bool ahead = asks_ahead(p);
    fill_zero(s.sums, rows * row_size);
    fill_zero(s.features, p.block_channels * s.rows * width);
    for (int64_t first = item.first_channel; first < item.last_channel;
         first += p.block_channels) {
      int64_t count = item.last_channel - first;
      count = count < p.block_channels ? count : p.block_channels;
      pack_feature_rows(
          s.features, s.rows * width, s.plane, p, item.image, first, count,
          tap_position(item.first_row, p.step, 0, k / 2), (rows - 1) * p.step + k,
          item.first_column);
      for (int64_t row = 0; row < rows; ++row) {
        // [vectors] of [channels, padded phases, lanes]: a block reads one stream
        pack_output(
            s.output, p, item.image, first, count, item.first_row + row, item.first_column,
            item.columns, s.row);
        for (int64_t v = 0; v < vectors; ++v) {
          if (ahead && row + 1 < rows)
            prefetch_output(
                p, item.image, first, count, item.first_row + row + 1, item.first_column,
                item.columns, v, vectors);
          const bool tail = v + 1 == vectors && has_tail<Acc>(item.columns);
          const int64_t skipped = tail ? n / 2 : 0;
          accumulate(
              p, s, blocks[tail],
              s.features + row * p.step * width + vector_start<Acc>(v * n, item.columns) + skipped,
              s.output + v * output_block_size<Acc>(p, count) + skipped,
              s.sums + row * row_size + v * size + skipped, count);
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      Acc* sums = s.sums + row * row_size;
      if (p.softmax) {
        pack_weights(
            s.weights, p, item.image, item.group, item.first_row + row, item.first_column,
            item.columns, s.row);
        for (int64_t v = 0; v < vectors; ++v)
          softmax_backward_block(sums + v * size, s.weights + v * size, k * k, padded);
      }
      unpack_weights(
          sums, p, item.image, item.group, item.first_row + row, item.first_column,
          item.columns, s.row);
    }
  }

  // One vector of cells of one row, for a block of channels.
  static void accumulate(
      const Params& p,
      const Scratch& s,
      const Block (&blocks)[6],
      const Acc* tile, // [channels, rows, step * plane], from the first tap on
      const Acc* output, // [channels, padded phases, lanes]
      Acc* sums, // [k * k, padded phases, lanes]
      int64_t channels) {
    const int64_t k = p.kernel_size, padded = padded_phases(p);
    const int64_t take = take_phases(p), width = p.step * s.plane;
    for (int64_t a = 0; a < k; ++a) {
      const Acc* features = tile + a * width;
      for (int64_t b = 0; b < k;) {
        const int64_t taps = k - b == 7 ? 4 : k - b < 5 ? k - b : 5;
        int64_t offsets[5];
        for (int64_t t = 0; t < taps; ++t)
          offsets[t] = tap_offset(b + t, p.step, s.plane);
        for (int64_t phase = 0; phase < padded; phase += take)
          blocks[taps](
              features,
              output + phase * n,
              sums + ((a * k + b) * padded + phase) * n,
              offsets,
              channels,
              s.rows * width,
              padded);
        b += taps;
      }
    }
  }
};

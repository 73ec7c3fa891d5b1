// SPDX-License-Identifier: Apache-2.0
// Masks and logits as packed weights: [blocks, entries, padded phases, lanes],
// a lane being a cell. The inner loops read them in this order, as one stream.
// Included by kernels.cpp only, inside its anonymous namespace.

// Phases are taken by fours, or all at once where they are 1 or divide by 3
// only; the list is padded with zero weights to a multiple of that.
CARAFE_INLINE int64_t phase_block(const Params& p) {
  const int64_t count = p.phases * p.phases;
  return count == 1 ? 1 : count % 4 && count % 3 == 0 ? 3 : 4;
}

CARAFE_INLINE int64_t padded_phases(const Params& p) {
  const int64_t block = phase_block(p);
  return ceil_div(p.phases * p.phases, block) * block;
}

template <typename Acc>
CARAFE_INLINE int64_t weight_block_size(const Params& p) {
  return p.kernel_size * p.kernel_size * padded_phases(p) * kLanes<Acc>;
}

// Softmax over the entries of one block, in place.
template <typename Acc>
void softmax_block(
    Acc* block, // [entries, padded phases, lanes]
    int64_t entries,
    int64_t padded) {
  constexpr int n = kLanes<Acc>;
  const int64_t stride = padded * n;
  for (int64_t phase = 0; phase < padded; ++phase) {
    Acc* column = block + phase * n;
    Vec<Acc> largest = load(column);
    for (int64_t t = 1; t < entries; ++t) {
      const Vec<Acc> value = load(column + t * stride);
      largest = value > largest ? value : largest;
    }
    Vec<Acc> sum{};
    for (int64_t t = 0; t < entries; ++t) {
      const Vec<Acc> value =
          exp_nonpositive<Acc>(load(column + t * stride) - largest);
      store(column + t * stride, value);
      sum += value;
    }
    const Vec<Acc> scale = Acc(1) / sum;
    for (int64_t t = 0; t < entries; ++t)
      store(column + t * stride, load(column + t * stride) * scale);
  }
}

// From the gradient of softmax's result to that of the logits, in place:
// gradient = P * (gradient - <P, gradient>).
template <typename Acc>
void softmax_backward_block(
    Acc* gradient, // [entries, padded phases, lanes]
    const Acc* probability, // likewise
    int64_t entries,
    int64_t padded) {
  constexpr int n = kLanes<Acc>;
  const int64_t stride = padded * n;
  for (int64_t phase = 0; phase < padded; ++phase) {
    Acc* g = gradient + phase * n;
    const Acc* p = probability + phase * n;
    Vec<Acc> dot{};
    for (int64_t t = 0; t < entries; ++t)
      dot += load(g + t * stride) * load(p + t * stride);
    for (int64_t t = 0; t < entries; ++t)
      store(g + t * stride, load(p + t * stride) * (load(g + t * stride) - dot));
  }
}

// Offset of the first weight of a group at cell (row, first), in masks or in logits.
CARAFE_INLINE int64_t weight_offset(
    const Params& p,
    const TensorView& tensor,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first) {
  const int64_t* stride = tensor.stride;
  const int64_t channel = mask_channel(group, p.kernel_size * p.kernel_size, 0);
  const int64_t phases = p.softmax ? 1 : p.phases; // pixels of a cell
  return image * stride[0] +
      (p.softmax ? logit_channel(channel, p.phases, 0, 0) : channel) * stride[1] +
      row * phases * stride[2] + first * phases * stride[3];
}

// Weights in channels_last by transposes, from or to the tensor. False, and nothing
// done, where less than a vector of them lies together.
template <bool to_tensor, typename T>
bool move_weights(
    T* packed, // [blocks, entries, padded phases, lanes]
    const Params& p,
    const TensorView& tensor,
    int64_t offset,
    int64_t count) { // cells
  constexpr int n = kLanes<T>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = p.kernel_size * p.kernel_size, size = weight_block_size<T>(p);
  const int64_t channels = p.softmax ? entries * phases2 : entries;
  const int64_t* stride = tensor.stride;
  if (stride[1] != 1 || stride[3] == 1 || channels < n || (p.softmax && padded != phases2))
    return false;
  if (p.softmax)
    move_channels<to_tensor>(packed, size, n, tensor, offset, stride[3], channels, count);
  else
    for (int64_t phase = 0; phase < phases2; ++phase)
      move_channels<to_tensor>(
          packed + phase * n, size, padded * n, tensor,
          offset + phase / p.phases * stride[2] + phase % p.phases * stride[3],
          p.phases * stride[3], channels, count);
  return true;
}

// Logits of `count` cells from (row, first) on; a channel is one phase already.
template <typename Acc>
void pack_logits(
    Acc* target, // [blocks, entries, padded phases, lanes]
    const Params& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = p.kernel_size * p.kernel_size, size = entries * padded * n;
  const int64_t* stride = p.masks.stride;
  const int64_t base = weight_offset(p, p.masks, image, group, row, first);
  if (move_weights<false>(target, p, p.masks, base, count))
    return;
  const bool last = stride[1] < stride[3]; // channels_last: a cell's logits lie together
  if (padded != phases2 || (last && count < n))
    fill_zero(target, ceil_div(count, n) * size);
  if (last) {
    for (int64_t block = 0; block < count; block += n, target += size) {
      const int64_t cell = vector_start<Acc>(block, count);
      for (int64_t lane = 0; lane < n && cell + lane < count; ++lane) {
        const int64_t at = base + (cell + lane) * stride[3];
        load_row(scratch, p.masks, at, stride[1], entries * phases2);
        for (int64_t t = 0; t < entries; ++t)
          for (int64_t phase = 0; phase < phases2; ++phase)
            target[(t * padded + phase) * n + lane] = scratch[t * phases2 + phase];
      }
    }
    return;
  }
  fill_zero(scratch + count, ceil_div(count, n) * n - count);
  for (int64_t t = 0; t < entries; ++t)
    for (int64_t phase = 0; phase < phases2; ++phase) {
      load_row(scratch, p.masks, base + (t * phases2 + phase) * stride[1], stride[3], count);
      Acc* to = target + (t * padded + phase) * n;
      for (int64_t block = 0; block < count; block += n, to += size)
        store(to, load(scratch + vector_start<Acc>(block, count)));
    }
}

// Weights of `count` cells from (row, first) on; softmax where masks are logits.
template <typename Acc>
void pack_weights(
    Acc* target, // [blocks, entries, padded phases, lanes]
    const Params& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t padded = padded_phases(p), block = weight_block_size<Acc>(p);
  const int64_t entries = p.kernel_size * p.kernel_size;
  const int64_t blocks = ceil_div(count, n);
  if (p.softmax) {
    pack_logits(target, p, image, group, row, first, count, scratch);
    for (int64_t b = 0; b < blocks; ++b)
      softmax_block(target + b * block, entries, padded);
    return;
  }
  if (padded != p.phases * p.phases)
    fill_zero(target, blocks * block);
  const int64_t* stride = p.masks.stride;
  const int64_t base = weight_offset(p, p.masks, image, group, row, first);
  if (move_weights<false>(target, p, p.masks, base, count))
    return;
  for (int64_t t = 0; t < entries; ++t)
    for (int64_t phase_row = 0; phase_row < p.phases; ++phase_row)
      pack_phases(
          target + (t * padded + phase_row * p.phases) * n,
          block,
          p.masks,
          base + t * stride[1] + phase_row * stride[2],
          stride[3],
          p.phases,
          count,
          phase_row + 1 < p.phases ? stride[2] : stride[1] - phase_row * stride[2],
          scratch);
}

// Gradients of masks (or of logits) of `count` cells, to p.grad_masks. The last vector
// goes first: where it did with its upper half (has_tail), the other one is overwritten.
template <typename Acc>
void unpack_weights(
    const Acc* source, // [blocks, entries, padded phases, lanes]
    const Params& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = p.kernel_size * p.kernel_size;
  const TensorView& target = p.grad_masks;
  const int64_t* stride = target.stride;
  const int64_t size = entries * padded * n;
  const int64_t base = weight_offset(p, target, image, group, row, first);
  if (move_weights<true>(source, p, target, base, count))
    return;
  if (!p.softmax) {
    for (int64_t block = (count - 1) / n; block >= 0; --block) {
      const int64_t cell = vector_start<Acc>(block * n, count);
      for (int64_t t = 0; t < entries; ++t)
        for (int64_t phase_row = 0; phase_row < p.phases; ++phase_row)
          unpack_phases(
              target,
              base + t * stride[1] + phase_row * stride[2] + cell * p.phases * stride[3],
              stride[3],
              source + block * size + (t * padded + phase_row * p.phases) * n,
              p.phases,
              count - cell < n ? count - cell : n,
              scratch);
    }
    return;
  }
  if (stride[1] < stride[3]) { // channels_last
    for (int64_t cell = 0; cell < count; ++cell) {
      const int64_t block = cell / n;
      const Acc* from = source + block * size + cell - vector_start<Acc>(block * n, count);
      for (int64_t t = 0; t < entries; ++t)
        for (int64_t phase = 0; phase < phases2; ++phase)
          scratch[t * phases2 + phase] = from[(t * padded + phase) * n];
      store_row(target, base + cell * stride[3], stride[1], scratch, entries * phases2);
    }
    return;
  }
  for (int64_t t = 0; t < entries; ++t)
    for (int64_t phase = 0; phase < phases2; ++phase) {
      const Acc* from = source + (t * padded + phase) * n;
      for (int64_t block = (count - 1) / n; block >= 0; --block)
        store(scratch + vector_start<Acc>(block * n, count), load(from + block * size));
      store_row(
          target, base + (t * phases2 + phase) * stride[1], stride[3], scratch, count);
    }
}

// Elements from one block of packed output to the next. Four vectors more than the
// channels fill: blocks a power of two apart would fall on the same lines of L1.
template <typename Acc>
CARAFE_INLINE int64_t output_block_size(const Params& p, int64_t channels) {
  return (channels * padded_phases(p) + 4) * kLanes<Acc>;
}

// The output pixels of `count` cells of some channels, as vectors of one phase.
template <typename Acc>
void pack_output(
    Acc* target, // [blocks] of [channels, padded phases, lanes]
    const Params& p,
    int64_t image,
    int64_t channel,
    int64_t channels,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [padded row]
  constexpr int n = kLanes<Acc>;
  const int64_t* stride = p.output.stride;
  const int64_t used = p.phases * p.phases, padded = padded_phases(p);
  const int64_t block_stride = output_block_size<Acc>(p, channels);
  const int64_t base = image * stride[0] + channel * stride[1] +
      row * p.phases * stride[2] + first * p.phases * stride[3];
  if (used != padded)
    fill_zero(target, ceil_div(count, n) * block_stride);
  int64_t c = 0;
  if (stride[1] == 1)
    for (; c + n <= channels; c += n)
      for (int64_t block = 0; block < count; block += n) {
        const int64_t cell = vector_start<Acc>(block, count);
        for (int64_t phase = 0; phase < used; ++phase)
          load_channels(
              target + block / n * block_stride + (c * padded + phase) * n, padded * n, p.output,
              base + c + phase / p.phases * stride[2] +
                  (cell * p.phases + phase % p.phases) * stride[3],
              p.phases * stride[3], 0, count - cell < n ? count - cell : n);
      }
  for (; c < channels; ++c)
    for (int64_t q = 0; q < p.phases; ++q)
      pack_phases(
          target + (c * padded + q * p.phases) * n, block_stride, p.output,
          base + c * stride[1] + q * stride[2], stride[3], p.phases, count,
          3 * stride[1], scratch);
}

// Asks for what pack_output will read: part `part` of `parts`, so that the lines
// arrive between the computations.
CARAFE_INLINE void prefetch_output(
    const Params& p,
    int64_t image,
    int64_t channel,
    int64_t channels,
    int64_t row,
    int64_t first,
    int64_t count,
    int64_t part,
    int64_t parts) {
  const int64_t* stride = p.output.stride;
  const int64_t base = image * stride[0] + channel * stride[1] +
      row * p.phases * stride[2] + first * p.phases * stride[3];
  for (int64_t c = channels * part / parts; c < channels * (part + 1) / parts; ++c)
    for (int64_t q = 0; q < p.phases; ++q)
      prefetch_row<false>(
          p.output, base + c * stride[1] + q * stride[2], stride[3], count * p.phases);
}

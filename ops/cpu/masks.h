// SPDX-License-Identifier: Apache-2.0
// Masks, logits and the output as packed vectors. Of masks these are
// [vectors, entries, padded phases, lanes], a lane being a cell: the inner loops read
// them in this order, as one stream.
#pragma once

#include "pack.h"
#include "vector.h"

namespace carafe::CARAFE_ISA {
namespace {

// Phases that a register block takes at once: four, or all where they are 1 or divide
// by 3 only; the list is padded with zero weights to a multiple of that.
CARAFE_INLINE int64_t phases_at_once(const Problem& p) {
  const int64_t count = p.phases * p.phases;
  return count == 1 ? 1 : count % 4 && count % 3 == 0 ? 3 : 4;
}

CARAFE_INLINE int64_t padded_phases(const Problem& p) {
  const int64_t some = phases_at_once(p);
  return ceil_div(p.phases * p.phases, some) * some;
}

// Taps of a kernel row that a register block of the gradients takes of those left: five
// at most, and seven as four and three, since a block of two does fewer multiply-adds a load.
constexpr int64_t kMostTaps = 5;
CARAFE_INLINE int64_t taps_at_once(int64_t left) {
  return left == kMostTaps + 2 ? kMostTaps - 1 : left < kMostTaps ? left : kMostTaps;
}

// Elements of the packed masks of one vector of cells.
template <typename Acc>
CARAFE_INLINE int64_t mask_vector_size(const Problem& p) {
  return mask_entries(p) * padded_phases(p) * kLanes<Acc>;
}

// Bytes of the packed masks of one cell.
template <typename Acc>
CARAFE_INLINE int64_t mask_cell_bytes(const Problem& p) {
  return mask_vector_size<Acc>(p) / kLanes<Acc> * int64_t(sizeof(Acc));
}

// Softmax over the entries of one vector of cells, in place.
template <typename Acc>
void softmax(
    Acc* masks, // [entries, padded phases, lanes]
    int64_t entries,
    int64_t padded) {
  constexpr int n = kLanes<Acc>;
  const int64_t stride = padded * n;
  for (int64_t phase = 0; phase < padded; ++phase) {
    Acc* column = masks + phase * n;
    Vec<Acc> largest = load(column);
    for (int64_t t = 1; t < entries; ++t) {
      const Vec<Acc> value = load(column + t * stride);
      largest = value > largest ? value : largest;
    }
    Vec<Acc> sum{};
    for (int64_t t = 0; t < entries; ++t) {
      const Vec<Acc> value = exp_nonpositive<Acc>(load(column + t * stride) - largest);
      store(column + t * stride, value);
      sum += value;
    }
    const Vec<Acc> scale = Acc(1) / sum;
    for (int64_t t = 0; t < entries; ++t)
      store(column + t * stride, load(column + t * stride) * scale);
  }
}

// From the gradient of the masks to that of their logits, in place:
// gradient = masks * (gradient - <masks, gradient>).
template <typename Acc>
void softmax_backward(
    Acc* gradient, // [entries, padded phases, lanes]
    const Acc* masks, // likewise
    int64_t entries,
    int64_t padded) {
  constexpr int n = kLanes<Acc>;
  const int64_t stride = padded * n;
  for (int64_t phase = 0; phase < padded; ++phase) {
    Acc* g = gradient + phase * n;
    const Acc* m = masks + phase * n;
    Vec<Acc> dot{};
    for (int64_t t = 0; t < entries; ++t)
      dot += load(g + t * stride) * load(m + t * stride);
    for (int64_t t = 0; t < entries; ++t)
      store(g + t * stride, load(m + t * stride) * (load(g + t * stride) - dot));
  }
}

// Offset of entry 0 and phase (0, 0) of a group at cell (row, first).
CARAFE_INLINE int64_t
mask_offset(const MaskView& masks, int64_t image, int64_t group, int64_t row, int64_t first) {
  return image * masks.image + group * masks.group + row * masks.cell_row + first * masks.cell_column;
}

// The stride between neighbouring channels of the tensor.
CARAFE_INLINE int64_t channel_stride(const MaskView& masks, const Problem& p) {
  return p.softmax ? masks.phase_column : masks.entry;
}

// Masks in channels_last by transposes, from or to the tensor. Where less than a vector
// of them lies together it does nothing and returns false.
template <bool to_tensor, typename T>
bool move_masks(
    T* packed, // [vectors, entries, padded phases, lanes]
    const Problem& p,
    const MaskView& masks,
    int64_t offset,
    int64_t count) { // cells
  constexpr int n = kLanes<T>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = mask_entries(p), size = mask_vector_size<T>(p);
  const int64_t channels = p.softmax ? entries * phases2 : entries;
  const int64_t pixel = p.softmax ? masks.cell_column : masks.phase_column; // stride
  if (channel_stride(masks, p) != 1 || pixel == 1 || channels < n || (p.softmax && padded != phases2))
    return false;
  if (p.softmax)
    move_channels<to_tensor>(packed, size, n, masks, offset, pixel, channels, count);
  else
    for (int64_t phase = 0; phase < phases2; ++phase)
      move_channels<to_tensor>(
          packed + phase * n, size, padded * n, masks,
          offset + phase / p.phases * masks.phase_row + phase % p.phases * masks.phase_column,
          masks.cell_column, channels, count);
  return true;
}

// Logits of `count` cells from (row, first) on; a channel is one phase already.
template <typename Acc>
void pack_logits(
    Acc* target, // [vectors, entries, padded phases, lanes]
    const Problem& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = mask_entries(p), size = mask_vector_size<Acc>(p);
  const MaskView& logits = p.masks;
  const int64_t base = mask_offset(logits, image, group, row, first);
  const int64_t channel = channel_stride(logits, p);
  if (move_masks<false>(target, p, logits, base, count))
    return;
  const bool last = channel < logits.cell_column; // channels_last: a cell's logits lie together
  if (padded != phases2 || (last && count < n))
    fill_zero(target, ceil_div(count, n) * size);
  if (last) {
    for (int64_t begin = 0; begin < count; begin += n, target += size) {
      const int64_t cell = vector_start<Acc>(begin, count);
      for (int64_t lane = 0; lane < n && cell + lane < count; ++lane) {
        const int64_t at = base + (cell + lane) * logits.cell_column;
        load_row(scratch, logits, at, channel, entries * phases2);
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
      load_row(scratch, logits, base + (t * phases2 + phase) * channel, logits.cell_column, count);
      Acc* to = target + (t * padded + phase) * n;
      for (int64_t begin = 0; begin < count; begin += n, to += size)
        store(to, load(scratch + vector_start<Acc>(begin, count)));
    }
}

// Masks of `count` cells from (row, first) on, by softmax where the tensor has logits.
template <typename Acc>
void pack_masks(
    Acc* target, // [vectors, entries, padded phases, lanes]
    const Problem& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t padded = padded_phases(p), size = mask_vector_size<Acc>(p);
  const int64_t entries = mask_entries(p), vectors = ceil_div(count, n);
  if (p.softmax) {
    pack_logits(target, p, image, group, row, first, count, scratch);
    for (int64_t v = 0; v < vectors; ++v)
      softmax(target + v * size, entries, padded);
    return;
  }
  if (padded != p.phases * p.phases)
    fill_zero(target, vectors * size);
  const MaskView& masks = p.masks;
  const int64_t base = mask_offset(masks, image, group, row, first);
  if (move_masks<false>(target, p, masks, base, count))
    return;
  for (int64_t t = 0; t < entries; ++t)
    for (int64_t phase_row = 0; phase_row < p.phases; ++phase_row)
      pack_phases(
          target + (t * padded + phase_row * p.phases) * n, size, masks,
          base + t * masks.entry + phase_row * masks.phase_row, masks.phase_column, p.phases, count,
          phase_row + 1 < p.phases ? masks.phase_row : masks.entry - phase_row * masks.phase_row, scratch);
}

// Gradients of masks (or of logits) of `count` cells, to p.grad_masks. The last vector
// goes first: where it did with its upper half (has_tail), the other one is overwritten.
template <typename Acc>
void unpack_masks(
    const Acc* source, // [vectors, entries, padded phases, lanes]
    const Problem& p,
    int64_t image,
    int64_t group,
    int64_t row,
    int64_t first,
    int64_t count,
    Acc* scratch) { // [max(entries * phases^2, padded row)]
  constexpr int n = kLanes<Acc>;
  const int64_t phases2 = p.phases * p.phases, padded = padded_phases(p);
  const int64_t entries = mask_entries(p), size = mask_vector_size<Acc>(p);
  const MaskView& target = p.grad_masks;
  const int64_t base = mask_offset(target, image, group, row, first);
  const int64_t channel = channel_stride(target, p);
  if (move_masks<true>(source, p, target, base, count))
    return;
  if (!p.softmax) {
    for (int64_t v = (count - 1) / n; v >= 0; --v) {
      const int64_t cell = vector_start<Acc>(v * n, count);
      for (int64_t t = 0; t < entries; ++t)
        for (int64_t phase_row = 0; phase_row < p.phases; ++phase_row)
          unpack_phases(
              target, base + t * target.entry + phase_row * target.phase_row + cell * target.cell_column,
              target.phase_column, source + v * size + (t * padded + phase_row * p.phases) * n, p.phases,
              count - cell < n ? count - cell : n, scratch);
    }
    return;
  }
  if (channel < target.cell_column) { // channels_last
    for (int64_t cell = 0; cell < count; ++cell) {
      const int64_t v = cell / n;
      const Acc* from = source + v * size + cell - vector_start<Acc>(v * n, count);
      for (int64_t t = 0; t < entries; ++t)
        for (int64_t phase = 0; phase < phases2; ++phase)
          scratch[t * phases2 + phase] = from[(t * padded + phase) * n];
      store_row(target, base + cell * target.cell_column, channel, scratch, entries * phases2);
    }
    return;
  }
  for (int64_t t = 0; t < entries; ++t)
    for (int64_t phase = 0; phase < phases2; ++phase) {
      const Acc* from = source + (t * padded + phase) * n;
      for (int64_t v = (count - 1) / n; v >= 0; --v)
        store(scratch + vector_start<Acc>(v * n, count), load(from + v * size));
      store_row(target, base + (t * phases2 + phase) * channel, target.cell_column, scratch, count);
    }
}

// Elements from one vector of cells of packed output to the next. Four vectors more than
// the channels fill: a power of two apart they would fall on the same lines of L1.
template <typename Acc>
CARAFE_INLINE int64_t output_vector_size(const Problem& p, int64_t channels) {
  constexpr int kSpare = 4;
  return (channels * padded_phases(p) + kSpare) * kLanes<Acc>;
}

// How far ahead pack_output asks for rows of the output (NOTES.md: three gained 3 to 5 %).
constexpr int64_t kChannelsAhead = 3;

// The output pixels of `count` cells of some channels, as vectors of one phase.
template <typename Acc>
void pack_output(
    Acc* target, // [vectors] of [channels, padded phases, lanes]
    const Problem& p,
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
  const int64_t size = output_vector_size<Acc>(p, channels);
  const int64_t base = image * stride[0] + channel * stride[1] + row * p.phases * stride[2] +
      first * p.phases * stride[3];
  if (used != padded)
    fill_zero(target, ceil_div(count, n) * size);
  int64_t c = 0;
  if (stride[1] == 1)
    for (; c + n <= channels; c += n)
      for (int64_t begin = 0; begin < count; begin += n) {
        const int64_t cell = vector_start<Acc>(begin, count);
        for (int64_t phase = 0; phase < used; ++phase)
          load_channels(
              target + begin / n * size + (c * padded + phase) * n, padded * n, p.output,
              base + c + phase / p.phases * stride[2] + (cell * p.phases + phase % p.phases) * stride[3],
              p.phases * stride[3], 0, count - cell < n ? count - cell : n);
      }
  for (; c < channels; ++c)
    for (int64_t q = 0; q < p.phases; ++q)
      pack_phases(
          target + (c * padded + q * p.phases) * n, size, p.output, base + c * stride[1] + q * stride[2],
          stride[3], p.phases, count, kChannelsAhead * stride[1], scratch);
}

// Asks for what pack_output will read: part `part` of `parts`, so that the lines
// arrive between the computations.
CARAFE_INLINE void prefetch_output(
    const Problem& p,
    int64_t image,
    int64_t channel,
    int64_t channels,
    int64_t row,
    int64_t first,
    int64_t count,
    int64_t part,
    int64_t parts) {
  const int64_t* stride = p.output.stride;
  const int64_t base = image * stride[0] + channel * stride[1] + row * p.phases * stride[2] +
      first * p.phases * stride[3];
  for (int64_t c = channels * part / parts; c < channels * (part + 1) / parts; ++c)
    for (int64_t q = 0; q < p.phases; ++q)
      prefetch_row<false>(p.output, base + c * stride[1] + q * stride[2], stride[3], count * p.phases);
}

} // namespace
} // namespace carafe::CARAFE_ISA

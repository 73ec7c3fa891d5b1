// SPDX-License-Identifier: Apache-2.0
// Tensors to and from packed rows. All layout questions end here: what the
// kernels see is aligned, dense, zero-padded and one phase a vector.
#pragma once

#include "convert.h"
#include "kernels.h"

namespace carafe::CARAFE_ISA {
namespace {

template <typename Acc>
CARAFE_INLINE void fill_zero(Acc* target, int64_t count) {
  __builtin_memset(target, 0, size_t(count) * sizeof(Acc));
}

// Whether rows come from beyond the near caches, so that it pays to ask for them
// while something else computes. (Always inline: GCC drops the call of a function
// that does nothing but ask.)
CARAFE_INLINE bool asks_ahead(const Problem& p) {
  constexpr int64_t kNear = 8 << 20; // bytes of output: below it asking cost 3 to 10 % (NOTES.md)
  return p.batch * p.channels * output_pixels(p) * element_size(p.output.dtype) > kNear;
}

// Asks for a row that will be read, or written, soon. Nothing is asked of a strided one.
template <bool write>
CARAFE_INLINE void prefetch_row(const Elements& tensor, int64_t offset, int64_t stride, int64_t count) {
  const int64_t size = element_size(tensor.dtype);
  const char* row = (const char*)tensor.data + offset * size;
  for (int64_t byte = 0; stride == 1 && byte < count * size; byte += kCacheLine)
    __builtin_prefetch(row + byte, write, 2); // as far as L2
}

// Neighbouring pixels to two phases of one vector of cells. Of 16 bits a pair is one
// word, here and on the way back. Fewer than all the cells where `count` says so.
template <typename Acc, typename S>
CARAFE_INLINE void load_pair(
    Acc* target, // [2, lanes]
    const S* source, // [2 * count]
    int64_t count = kLanes<Acc>) {
  constexpr int n = kLanes<Acc>;
  Vec<Acc> even, odd;
  if constexpr (kIs16Bit<S>) {
    const Words pair = count == n ? load_as<Words>(source)
                                  : bits<Words>(load_part((const float*)source, count));
    even = widen(pair & 0xffff, S{});
    odd = widen(pair >> 16, S{});
  } else {
    const int64_t first = 2 * count < n ? 2 * count : n;
    const Vec<Acc> low = count == n ? load(source) : load_part(source, first);
    const Vec<Acc> high = count == n ? load(source + n) : load_part(source + first, 2 * count - first);
    deinterleave<Acc>(low, high, even, odd, AllLanes<Acc>{});
  }
  store(target, even);
  store(target + n, odd);
}

// And back: of all cells, of the upper half, or of the first `count`.
enum class Lanes { kAll, kUpper, kFirst };
template <typename Acc, Lanes lanes = Lanes::kAll, typename Out>
CARAFE_INLINE void store_pair(
    Out* target, // [2 * lanes]
    Vec<Acc> even,
    Vec<Acc> odd,
    int64_t count = kLanes<Acc>) {
  constexpr int n = kLanes<Acc>;
  if constexpr (kIs16Bit<Out>) {
    const Words pair = narrow_pair(even, odd, Out{});
    constexpr int skipped = lanes == Lanes::kUpper ? n : 0; // pixels
    if constexpr (lanes == Lanes::kFirst)
      store_part((float*)target, bits<Vec<float>>(pair), count);
    else
      __builtin_memcpy(target + skipped, (const Out*)&pair + skipped, sizeof pair - skipped * sizeof(Out));
  } else {
    Vec<Acc> low, high;
    interleave<Acc>(even, odd, low, high, AllLanes<Acc>{});
    if constexpr (lanes == Lanes::kFirst) {
      const int64_t first = 2 * count < n ? 2 * count : n;
      store_part(target, low, first);
      store_part(target + n, high, 2 * count - first);
      return;
    }
    if (lanes == Lanes::kAll)
      store(target, low);
    store(target + n, high);
  }
}

// channels_last: one vector of channels of each pixel of a vector of pixels, to
// one vector of pixels of each channel. The pixels begin .. end-1 are at
// offset + pixel * stride, the others are zero.
template <typename Acc>
void load_channels(
    Acc* target, // [lanes, lanes], channels channel_stride apart
    int64_t channel_stride,
    const Elements& tensor,
    int64_t offset,
    int64_t stride,
    int64_t begin,
    int64_t end) {
  constexpr int n = kLanes<Acc>;
  Vec<Acc> rows[n];
  if (begin == 0 && end == n && is_dense<Acc>(tensor, 1)) {
    const Acc* source = (const Acc*)tensor.data + offset;
    CARAFE_UNROLL
    for (int i = 0; i < n; ++i)
      rows[i] = load(source + i * stride);
  } else {
    for (int i = 0; i < n; ++i) {
      Acc channels[n] = {};
      if (i >= begin && i < end)
        load_row(channels, tensor, offset + i * stride, 1, n);
      rows[i] = load(channels);
    }
  }
  transpose<Acc>(rows);
  CARAFE_UNROLL
  for (int i = 0; i < n; ++i)
    store(target + i * channel_stride, rows[i]);
}

// The way back, for the first `count` pixels.
template <typename Acc>
void store_channels(
    const Elements& tensor,
    int64_t offset,
    int64_t stride,
    const Acc* source, // [lanes, lanes], channels channel_stride apart
    int64_t channel_stride,
    int64_t count) {
  constexpr int n = kLanes<Acc>;
  Vec<Acc> rows[n];
  CARAFE_UNROLL
  for (int i = 0; i < n; ++i)
    rows[i] = load(source + i * channel_stride);
  transpose<Acc>(rows);
  for (int i = 0; i < n && i < count; ++i) {
    Acc channels[n];
    store(channels, rows[i]);
    store_row(tensor, offset + i * stride, 1, channels, n);
  }
}

// First cell of the vector for cell `cell`, a multiple of the lanes. The last vector
// is moved back to be a full one, where there are enough cells: what lies in two
// vectors is computed twice, with equal results.
template <typename Acc>
CARAFE_INLINE int64_t vector_start(int64_t cell, int64_t count) {
  constexpr int n = kLanes<Acc>;
  return cell + n > count && count >= n ? count - n : cell;
}

// Whether the last vector of a row does with its upper half: the other one belongs to
// the vector before it as well.
template <typename Acc>
CARAFE_INLINE bool has_tail(int64_t count) {
  constexpr int n = kLanes<Acc>;
  return kAvx512 && count > n && count % n != 0 && count % n <= n / 2;
}

// channels_last: `channels` of each of `count` pixels, at least a vector of them, from
// or to packed vectors of pixels, the last one first (see unpack_masks). The last
// vector of channels overlaps, too.
template <bool to_tensor, typename T>
void move_channels(
    T* packed, // [vectors, channels, lanes], vector_stride and channel_stride apart
    int64_t vector_stride,
    int64_t channel_stride,
    const Elements& tensor,
    int64_t offset,
    int64_t stride, // of a pixel
    int64_t channels,
    int64_t count) {
  constexpr int n = kLanes<T>;
  for (int64_t vector = (count - 1) / n; vector >= 0; --vector) {
    const int64_t pixel = vector_start<T>(vector * n, count);
    const int64_t pixels = count - pixel < n ? count - pixel : n;
    for (int64_t first = 0; first < channels; first += n) {
      const int64_t c = vector_start<T>(first, channels), at = offset + pixel * stride + c;
      T* lanes = packed + vector * vector_stride + c * channel_stride;
      if constexpr (to_tensor)
        store_channels(tensor, at, stride, lanes, channel_stride, pixels);
      else
        load_channels(lanes, channel_stride, tensor, at, stride, 0, pixels);
    }
  }
}

// A dense row of `count` cells of two pixels to vectors of one phase.
template <typename Acc, typename S>
CARAFE_INLINE void pack_pairs(
    Acc* target, // [vectors, 2, lanes], vector_stride apart
    int64_t vector_stride,
    const S* source,
    int64_t count,
    int64_t ahead) { // offset of the row that is packed next, for the prefetch
  constexpr int n = kLanes<Acc>;
  int64_t cell = 0;
  for (; cell + n <= count; cell += n, target += vector_stride) {
    for (int byte = 0; byte < 2 * n * int(sizeof(S)); byte += kCacheLine)
      __builtin_prefetch((const char*)(source + 2 * cell + ahead) + byte);
    load_pair(target, source + 2 * cell);
  }
  if (cell < count && count >= n)
    load_pair(target, source + 2 * (count - n));
  else if (cell < count)
    load_pair(target, source, count);
}

// A row of `count` cells, `phases` pixels each, from `offset` on, as vectors of
// one phase: target[vector * vector_stride + phase * lanes + lane]. Lanes past
// the last cell become zero.
template <typename Acc>
CARAFE_INLINE void pack_phases(
    Acc* target,
    int64_t vector_stride,
    const Elements& tensor,
    int64_t offset,
    int64_t stride, // of a pixel
    int64_t phases,
    int64_t count, // cells
    int64_t ahead, // offset of the row that is packed next, for the prefetch
    Acc* row) { // scratch [ceil(count / lanes) * lanes * phases]
  constexpr int n = kLanes<Acc>;
  if (phases == 2 && is_dense<Acc>(tensor, stride))
    return pack_pairs(target, vector_stride, (const Acc*)tensor.data + offset, count, ahead);
  if constexpr (sizeof(Acc) == 4)
    if (phases == 2 && stride == 1) {
      if (tensor.dtype == Dtype::kBFloat16)
        return pack_pairs(target, vector_stride, (const BFloat16*)tensor.data + offset, count, ahead);
      if (tensor.dtype == Dtype::kHalf)
        return pack_pairs(target, vector_stride, (const Half*)tensor.data + offset, count, ahead);
    }
  load_row(row, tensor, offset, stride, count * phases);
  fill_zero(row + count * phases, (ceil_div(count, n) * n - count) * phases);
  for (int64_t first = 0; first < count; first += n, target += vector_stride) {
    const Acc* pixels = row + vector_start<Acc>(first, count) * phases;
    if (phases == 2) {
      load_pair(target, pixels);
      continue;
    }
    for (int64_t phase = 0; phase < phases; ++phase)
      for (int lane = 0; lane < n; ++lane)
        target[phase * n + lane] = pixels[lane * phases + phase];
  }
}

// Vectors of one phase to neighbouring pixels.
template <typename Acc>
CARAFE_INLINE void unpack_vectors(
    Acc* target, // [lanes * phases]
    const Acc* source, // [phases, lanes]
    int64_t phases) {
  constexpr int n = kLanes<Acc>;
  if (phases == 2)
    return store_pair<Acc>(target, load(source), load(source + n));
  if (phases == 1)
    return store(target, load(source));
  for (int64_t phase = 0; phase < phases; ++phase)
    for (int lane = 0; lane < n; ++lane)
      target[lane * phases + phase] = source[phase * n + lane];
}

// The same into a tensor, for `count` <= lanes cells.
template <typename Acc>
void unpack_phases(
    const Elements& tensor,
    int64_t offset,
    int64_t stride, // of a pixel
    const Acc* source, // [phases, lanes]
    int64_t phases,
    int64_t count, // cells
    Acc* row) { // scratch [lanes * phases]
  const bool direct = count == kLanes<Acc> && is_dense<Acc>(tensor, stride);
  unpack_vectors(direct ? (Acc*)tensor.data + offset : row, source, phases);
  if (!direct)
    store_row(tensor, offset, stride, row, count * phases);
}

// Widths of packed feature rows. Tap column b of cell lane l is element
// tap_offset(b) + l: the columns of one residue modulo `step` lie together.
template <typename Acc>
CARAFE_INLINE int64_t plane_width(const Problem& p, int64_t cells) {
  const int64_t lanes = ceil_div(cells, kLanes<Acc>) * kLanes<Acc>;
  return ceil_div(lanes + (p.kernel_size - 1) / p.step, kLanes<Acc>) * kLanes<Acc>;
}

CARAFE_INLINE int64_t tap_offset(int64_t tap, int64_t step, int64_t plane) {
  return tap % step * plane + tap / step;
}

// Feature rows y .. y+rows-1 of some channels, for the cells from `first` on.
// Elements outside the map are left as they are: the caller cleared them, once
// for all the channels of an item.
template <typename Acc>
void pack_feature_rows(
    Acc* target, // [channels, channel_stride], of which [rows, step, plane] are packed
    int64_t channel_stride,
    int64_t plane,
    const Problem& p,
    int64_t image,
    int64_t channel,
    int64_t channels,
    int64_t y, // may lie outside the map, as may all up to y + rows
    int64_t rows,
    int64_t first) {
  constexpr int n = kLanes<Acc>;
  const int64_t* stride = p.features.stride;
  const int64_t width = p.step * plane, radius = p.kernel_size / 2;
  const int64_t first_row = y < 0 ? -y : 0;
  const int64_t last_row = p.in_h - y < rows ? p.in_h - y : rows;
  const int64_t step = p.step * stride[3];
  for (int64_t residue = 0; residue < p.step; ++residue) {
    // element l holds column origin + l * step
    const int64_t origin = first * p.step + residue - radius;
    const int64_t begin = origin < 0 ? ceil_div(-origin, p.step) : 0;
    int64_t end = ceil_div(p.in_w - origin, p.step);
    end = end < plane ? end : plane;
    if (begin >= end)
      continue;
    const int64_t offset = image * stride[0] + channel * stride[1] + y * stride[2] + origin * stride[3];
    Acc* to = target + residue * plane;
    int64_t c = 0;
    if (stride[1] == 1) // channels_last
      for (; c + n <= channels; c += n)
        for (int64_t a = first_row; a < last_row; ++a)
          for (int64_t l = 0; l < end; l += n)
            load_channels(
                to + c * channel_stride + a * width + l, channel_stride, p.features,
                offset + c + a * stride[2] + l * step, step, begin > l ? begin - l : 0,
                end - l < n ? end - l : n);
    if (is_dense<Acc>(p.features, step)) {
      const Acc* from = (const Acc*)p.features.data + offset + begin;
      for (; c < channels; ++c)
        for (int64_t a = first_row; a < last_row; ++a)
          copy_row(
              to + c * channel_stride + a * width + begin, from + c * stride[1] + a * stride[2], end - begin);
    }
    for (; c < channels; ++c)
      for (int64_t a = first_row; a < last_row; ++a)
        load_row(
            to + c * channel_stride + a * width + begin, p.features,
            offset + c * stride[1] + a * stride[2] + begin * step, step, end - begin);
  }
}

// Asks for rows that pack_feature_rows will read for some of its channels.
CARAFE_INLINE void prefetch_features(
    const Problem& p,
    int64_t image,
    int64_t channel,
    int64_t channels,
    int64_t y, // may lie outside the map
    int64_t rows,
    int64_t first,
    int64_t cells) {
  const int64_t* stride = p.features.stride;
  const int64_t radius = p.kernel_size / 2;
  const int64_t begin = first * p.step > radius ? first * p.step - radius : 0;
  int64_t end = (first + cells - 1) * p.step + radius + 1;
  end = end < p.in_w ? end : p.in_w;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t a = y < 0 ? -y : 0; a < rows && y + a < p.in_h; ++a)
      prefetch_row<false>(
          p.features, image * stride[0] + (channel + c) * stride[1] + (y + a) * stride[2] + begin * stride[3],
          stride[3], end - begin);
}

} // namespace
} // namespace carafe::CARAFE_ISA

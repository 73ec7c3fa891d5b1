// SPDX-License-Identifier: Apache-2.0
// Rows of a tensor of any dtype and strides to and from packed rows of the
// accumulation type. All layout questions end here: what the kernels see is
// aligned, dense, zero-padded and one phase a vector.
// Included by kernels.cpp only, inside its anonymous namespace.

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

CARAFE_INLINE float widen(float value) { return value; }
CARAFE_INLINE double widen(double value) { return value; }
CARAFE_INLINE float widen(BFloat16 value) {
  return bits<float>(uint32_t(value.bits) << 16);
}
// Branch-free, so that a loop over it becomes vector code without F16C.
CARAFE_INLINE float widen(Half value) {
  const uint32_t magnitude = uint32_t(value.bits & 0x7fff) << 13;
  const float scaled = bits<float>(magnitude) * 0x1p112f; // subnormals as well
  const uint32_t special = magnitude >= (0x7c00u << 13) ? 0x7f800000u : 0u;
  return bits<float>(
      bits<uint32_t>(scaled) | special | uint32_t(value.bits & 0x8000) << 16);
}

CARAFE_INLINE void narrow(float value, float& to) { to = value; }
CARAFE_INLINE void narrow(double value, float& to) { to = float(value); }
CARAFE_INLINE void narrow(double value, double& to) { to = value; }
CARAFE_INLINE void narrow(float value, double& to) { to = value; }
// Round to nearest, ties to even; a NaN stays a (quiet) NaN.
CARAFE_INLINE void narrow(float value, BFloat16& to) {
  const uint32_t raw = bits<uint32_t>(value);
  const uint32_t rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
  to.bits = uint16_t((raw & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
CARAFE_INLINE void narrow(float value, Half& to) {
  const uint32_t raw = bits<uint32_t>(value);
  const uint32_t magnitude = raw & 0x7fffffff;
  const uint32_t normal =
      (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 aligns a subnormal's bits, and rounds them, in one addition.
  const uint32_t subnormal =
      bits<uint32_t>(bits<float>(magnitude) + 0.5f) - bits<uint32_t>(0.5f);
  uint32_t result = magnitude < (113u << 23) ? subnormal : normal;
  result = magnitude >= 0x477ff000 ? 0x7c00 : result;
  result = magnitude > 0x7f800000 ? 0x7e00 : result;
  to.bits = uint16_t(result | (raw >> 16 & 0x8000));
}
CARAFE_INLINE void narrow(double value, BFloat16& to) {
  narrow(float(value), to);
}
CARAFE_INLINE void narrow(double value, Half& to) { narrow(float(value), to); }

template <typename Acc, typename S>
void load_elements(Acc* target, const S* source, int64_t stride, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i)
      target[i] = Acc(widen(source[i]));
  } else {
    for (int64_t i = 0; i < count; ++i)
      target[i] = Acc(widen(source[i * stride]));
  }
}

template <typename Acc, typename S>
void store_elements(S* target, const Acc* source, int64_t stride, int64_t count) {
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i)
      narrow(source[i], target[i]);
  } else {
    for (int64_t i = 0; i < count; ++i)
      narrow(source[i], target[i * stride]);
  }
}

// target[i] = tensor[offset + i * stride]
template <typename Acc>
void load_row(
    Acc* target, // [count]
    const TensorView& tensor,
    int64_t offset,
    int64_t stride,
    int64_t count) {
  const void* data = tensor.data;
  switch (tensor.dtype) {
    case Dtype::kFloat:
      return load_elements(target, (const float*)data + offset, stride, count);
    case Dtype::kDouble:
      return load_elements(target, (const double*)data + offset, stride, count);
    case Dtype::kHalf:
      return load_elements(target, (const Half*)data + offset, stride, count);
    case Dtype::kBFloat16:
      return load_elements(target, (const BFloat16*)data + offset, stride, count);
  }
}

// tensor[offset + i * stride] = source[i]
template <typename Acc>
void store_row(
    const TensorView& tensor,
    int64_t offset,
    int64_t stride,
    const Acc* source, // [count]
    int64_t count) {
  void* data = tensor.data;
  switch (tensor.dtype) {
    case Dtype::kFloat:
      return store_elements((float*)data + offset, source, stride, count);
    case Dtype::kDouble:
      return store_elements((double*)data + offset, source, stride, count);
    case Dtype::kHalf:
      return store_elements((Half*)data + offset, source, stride, count);
    case Dtype::kBFloat16:
      return store_elements((BFloat16*)data + offset, source, stride, count);
  }
}

template <typename Acc>
CARAFE_INLINE bool is_dense(const TensorView& tensor, int64_t stride) {
  return stride == 1 && tensor.dtype == (sizeof(Acc) == 4 ? Dtype::kFloat : Dtype::kDouble);
}

template <typename Acc>
CARAFE_INLINE void fill_zero(Acc* target, int64_t count) {
  __builtin_memset(target, 0, size_t(count) * sizeof(Acc));
}

// A row of `count` cells, `phases` pixels each, from `offset` on, as vectors of
// one phase: target[block * block_stride + phase * lanes + lane]. Lanes past
// the last cell become zero.
template <typename Acc>
void pack_phases(
    Acc* target,
    int64_t block_stride,
    const TensorView& tensor,
    int64_t offset,
    int64_t stride, // of a pixel
    int64_t phases,
    int64_t count, // cells
    Acc* row) { // scratch [ceil(count / lanes) * lanes * phases]
  constexpr int n = kLanes<Acc>;
  int64_t cell = 0;
  if (phases == 2 && is_dense<Acc>(tensor, stride)) {
    const Acc* source = (const Acc*)tensor.data + offset;
    for (; cell + n <= count; cell += n, target += block_stride) {
      Vec<Acc> even, odd;
      const Vec<Acc> low = load(source + 2 * cell);
      const Vec<Acc> high = load(source + 2 * cell + n);
      deinterleave<Acc>(low, high, even, odd, AllLanes<Acc>{});
      store(target, even);
      store(target + n, odd);
    }
  }
  if (cell == count)
    return;
  const int64_t rest = count - cell;
  const int64_t padded = ceil_div(rest, n) * n * phases;
  load_row(row, tensor, offset + cell * phases * stride, stride, rest * phases);
  fill_zero(row + rest * phases, padded - rest * phases);
  for (const Acc* block = row; block < row + padded; block += n * phases) {
    for (int64_t phase = 0; phase < phases; ++phase)
      for (int lane = 0; lane < n; ++lane)
        target[phase * n + lane] = block[lane * phases + phase];
    target += block_stride;
  }
}

// The reverse for one block: `count` <= lanes cells from vectors of one phase.
template <typename Acc>
void unpack_phases(
    const TensorView& tensor,
    int64_t offset,
    int64_t stride, // of a pixel
    const Acc* source, // [phases, lanes]
    int64_t phases,
    int64_t count, // cells
    Acc* row) { // scratch [lanes * phases]
  constexpr int n = kLanes<Acc>;
  if (phases == 2 && count == n && is_dense<Acc>(tensor, stride)) {
    Vec<Acc> low, high;
    Acc* target = (Acc*)tensor.data + offset;
    interleave<Acc>(load(source), load(source + n), low, high, AllLanes<Acc>{});
    store(target, low);
    store(target + n, high);
    return;
  }
  if (phases == 1)
    return store_row(tensor, offset, stride, source, count);
  for (int64_t phase = 0; phase < phases; ++phase)
    for (int64_t lane = 0; lane < count; ++lane)
      row[lane * phases + phase] = source[phase * n + lane];
  store_row(tensor, offset, stride, row, count * phases);
}

// Widths of packed feature rows. Tap column b of cell lane l is element
// tap_offset(b) + l: the columns of one residue modulo `step` lie together.
template <typename Acc>
CARAFE_INLINE int64_t plane_width(const Params& p, int64_t cells) {
  const int64_t lanes = ceil_div(cells, kLanes<Acc>) * kLanes<Acc>;
  return ceil_div(lanes + (p.kernel_size - 1) / p.step, kLanes<Acc>) * kLanes<Acc>;
}

CARAFE_INLINE int64_t tap_offset(int64_t tap, int64_t step, int64_t plane) {
  return tap % step * plane + tap / step;
}

// One feature row for cells first .. first+cells-1, zeros outside the map.
template <typename Acc>
void pack_features(
    Acc* target, // [step, plane]
    int64_t plane,
    const Params& p,
    int64_t image,
    int64_t channel,
    int64_t y, // may lie outside the map
    int64_t first) {
  if (y < 0 || y >= p.in_h)
    return fill_zero(target, p.step * plane);
  const int64_t* stride = p.features.stride;
  const int64_t radius = p.kernel_size / 2;
  const int64_t base = image * stride[0] + channel * stride[1] + y * stride[2];
  for (int64_t residue = 0; residue < p.step; ++residue, target += plane) {
    // element l holds column (first + l) * step + residue - radius
    const int64_t origin = first * p.step + residue - radius;
    int64_t begin = origin < 0 ? ceil_div(-origin, p.step) : 0;
    int64_t end = ceil_div(p.in_w - origin, p.step);
    begin = begin < plane ? begin : plane;
    end = end < plane ? end : plane;
    end = end > begin ? end : begin;
    fill_zero(target, begin);
    load_row(
        target + begin,
        p.features,
        base + (origin + begin * p.step) * stride[3],
        p.step * stride[3],
        end - begin);
    fill_zero(target + end, plane - end);
  }
}

// Hands out parts of a thread's scratch; with no base it only counts.
struct Arena {
  uintptr_t base;
  size_t used = 0;

  template <typename T>
  T* take(int64_t count) {
    T* part = (T*)(base + used);
    used += (size_t(count) * sizeof(T) + 63) / 64 * 64;
    return part;
  }
};

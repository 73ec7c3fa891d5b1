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


// 16-bit values pass through float a vector at a time, in integer arithmetic
// that every instruction set has.
constexpr int kWide = kLanes<float>;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Shorts __attribute__((vector_size(kVectorBytes / 2)));

CARAFE_INLINE Vec<float> widen(Words raw, BFloat16) {
  return bits<Vec<float>>(raw << 16);
}
CARAFE_INLINE Vec<float> widen(Words raw, Half) {
  const Words magnitude = (raw & 0x7fff) << 13;
  const Vec<float> scaled = bits<Vec<float>>(magnitude) * 0x1p112f; // subnormals too
  const Words special = Words(magnitude >= (0x7c00u << 13)) & 0x7f800000u;
  return bits<Vec<float>>(bits<Words>(scaled) | special | (raw & 0x8000) << 16);
}

// Round to nearest, ties to even; a NaN becomes the quiet one.
CARAFE_INLINE Words narrow(Vec<float> value, BFloat16) {
  const Words raw = bits<Words>(value);
  const Words nan = Words((raw & 0x7fffffff) > 0x7f800000u);
  const Words rounded = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
  return (nan & 0x7fc0) | (~nan & rounded);
}
CARAFE_INLINE Words narrow(Vec<float> value, Half) {
  const Words raw = bits<Words>(value);
  const Words magnitude = raw & 0x7fffffff;
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 aligns a subnormal's bits, and rounds them, in one addition.
  const Words subnormal =
      bits<Words>(bits<Vec<float>>(magnitude) + 0.5f) - bits<uint32_t>(0.5f);
  const Words small = Words(magnitude < (113u << 23));
  const Words large = Words(magnitude >= 0x477ff000u);
  const Words nan = Words(magnitude > 0x7f800000u);
  const Words finite = (small & subnormal) | (~small & normal);
  const Words result = (~large & finite) | (large & 0x7c00) | (nan & 0x200);
  return result | (raw >> 16 & 0x8000);
}

// kWide values; a plain loop does the rest of the work for double.
template <typename S>
CARAFE_INLINE void widen_vector(float* target, const S* source) {
  Shorts shorts;
  __builtin_memcpy(&shorts, source, sizeof shorts);
  store(target, widen(__builtin_convertvector(shorts, Words), S{}));
}
template <typename S>
CARAFE_INLINE void widen_vector(double* target, const S* source) {
  float wide[kWide];
  widen_vector(wide, source);
  for (int i = 0; i < kWide; ++i)
    target[i] = wide[i];
}
template <typename S>
CARAFE_INLINE void store_narrow(S* target, Vec<float> value) {
  const Shorts shorts = __builtin_convertvector(narrow(value, S{}), Shorts);
  __builtin_memcpy(target, &shorts, sizeof shorts);
}
template <typename S>
CARAFE_INLINE void narrow_vector(S* target, const float* source) {
  store_narrow(target, load(source));
}
template <typename S>
CARAFE_INLINE void narrow_vector(S* target, const double* source) {
  float single[kWide];
  for (int i = 0; i < kWide; ++i)
    single[i] = float(source[i]);
  narrow_vector(target, single);
}

// Fewer than kWide values that lie together; RoI maps are that narrow.
template <typename Acc, typename S>
CARAFE_INLINE void widen_part(Acc* target, const S* source, int64_t count) {
  S part[kWide] = {};
  Acc wide[kWide];
  __builtin_memcpy(part, source, size_t(count) * sizeof(S));
  widen_vector(wide, part);
  __builtin_memcpy(target, wide, size_t(count) * sizeof(Acc));
}
template <typename Acc, typename S>
CARAFE_INLINE void narrow_part(S* target, const Acc* source, int64_t count) {
  Acc wide[kWide] = {};
  S part[kWide];
  __builtin_memcpy(wide, source, size_t(count) * sizeof(Acc));
  narrow_vector(part, wide);
  __builtin_memcpy(target, part, size_t(count) * sizeof(S));
}
#if defined(__AVX512BW__)
template <typename S>
CARAFE_INLINE void widen_part(float* target, const S* source, int64_t count) {
  const __mmask16 mask = __mmask16((1u << count) - 1);
  const __m512i raw = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, source));
  _mm512_mask_storeu_ps(target, mask, bits<__m512>(widen(bits<Words>(raw), S{})));
}
template <typename S>
CARAFE_INLINE void narrow_part(S* target, const float* source, int64_t count) {
  const __mmask16 mask = __mmask16((1u << count) - 1);
  const Words raw = narrow(bits<Vec<float>>(_mm512_maskz_loadu_ps(mask, source)), S{});
  _mm256_mask_storeu_epi16(target, mask, _mm512_cvtepi32_epi16(bits<__m512i>(raw)));
}
#endif

template <typename S>
constexpr bool kIs16Bit = sizeof(S) == 2;

CARAFE_INLINE int64_t element_size(Dtype dtype) {
  return dtype == Dtype::kDouble ? 8 : dtype == Dtype::kFloat ? 4 : 2;
}

template <typename Acc>
CARAFE_INLINE bool is_dense(const TensorView& tensor, int64_t stride) {
  return stride == 1 && tensor.dtype == (sizeof(Acc) == 4 ? Dtype::kFloat : Dtype::kDouble);
}

template <typename Acc, typename S>
void load_elements(Acc* target, const S* source, int64_t stride, int64_t count) {
  if constexpr (kIs16Bit<S>) {
    if (stride == 1 && count >= kWide) { // the last vector overlaps the one before
      for (int64_t i = 0; i + kWide < count; i += kWide)
        widen_vector(target + i, source + i);
      return widen_vector(target + count - kWide, source + count - kWide);
    }
    if (stride == 1)
      return widen_part(target, source, count);
    for (; count > 0; count -= kWide, target += kWide, source += kWide * stride) {
      const int64_t some = count < kWide ? count : kWide; // the tensor may end there
      S part[kWide] = {};
      Acc wide[kWide];
      for (int64_t i = 0; i < some; ++i)
        part[i] = source[i * stride];
      widen_vector(wide, part);
      __builtin_memcpy(target, wide, size_t(some) * sizeof(Acc));
    }
  } else {
    for (int64_t i = 0; i < count; ++i)
      target[i] = Acc(source[i * stride]);
  }
}

template <typename Acc, typename S>
void store_elements(S* target, const Acc* source, int64_t stride, int64_t count) {
  if constexpr (kIs16Bit<S>) {
    if (stride == 1 && count >= kWide) {
      for (int64_t i = 0; i + kWide < count; i += kWide)
        narrow_vector(target + i, source + i);
      return narrow_vector(target + count - kWide, source + count - kWide);
    }
    if (stride == 1)
      return narrow_part(target, source, count);
    for (; count > 0; count -= kWide, source += kWide, target += kWide * stride) {
      const int64_t some = count < kWide ? count : kWide;
      Acc wide[kWide] = {};
      S part[kWide];
      __builtin_memcpy(wide, source, size_t(some) * sizeof(Acc));
      narrow_vector(part, wide);
      for (int64_t i = 0; i < some; ++i)
        target[i * stride] = part[i];
    }
  } else {
    for (int64_t i = 0; i < count; ++i)
      target[i * stride] = S(source[i]);
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
  if (is_dense<Acc>(tensor, stride)) {
    __builtin_memcpy(target, (const Acc*)data + offset, size_t(count) * sizeof(Acc));
    return;
  }
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
  if (is_dense<Acc>(tensor, stride)) {
    __builtin_memcpy((Acc*)data + offset, source, size_t(count) * sizeof(Acc));
    return;
  }
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
CARAFE_INLINE void fill_zero(Acc* target, int64_t count) {
  __builtin_memset(target, 0, size_t(count) * sizeof(Acc));
}

// Neighbouring pixels to two phases of one vector of cells, and back.
template <typename Acc>
CARAFE_INLINE void load_pair(Acc* target, const Acc* source) { // [2, lanes], [2 * lanes]
  constexpr int n = kLanes<Acc>;
  Vec<Acc> even, odd;
  deinterleave<Acc>(load(source), load(source + n), even, odd, AllLanes<Acc>{});
  store(target, even);
  store(target + n, odd);
}
template <typename Acc>
CARAFE_INLINE void store_pair(Acc* target, Vec<Acc> even, Vec<Acc> odd) { // [2 * lanes]
  Vec<Acc> low, high;
  interleave<Acc>(even, odd, low, high, AllLanes<Acc>{});
  store(target, low);
  store(target + kLanes<Acc>, high);
}

// Two phases of one vector of cells to neighbouring pixels of a tensor of the
// accumulation type, or of 16 bits where that is float.
template <typename Acc>
CARAFE_INLINE void
store_pixels(void* data, Dtype dtype, int64_t offset, Vec<Acc> even, Vec<Acc> odd) {
  constexpr int n = kLanes<Acc>;
  if constexpr (sizeof(Acc) == 4)
    if (dtype == Dtype::kHalf || dtype == Dtype::kBFloat16) {
      Vec<Acc> low, high;
      interleave<Acc>(even, odd, low, high, AllLanes<Acc>{});
      if (dtype == Dtype::kHalf) {
        store_narrow((Half*)data + offset, low);
        store_narrow((Half*)data + offset + n, high);
      } else {
        store_narrow((BFloat16*)data + offset, low);
        store_narrow((BFloat16*)data + offset + n, high);
      }
      return;
    }
  store_pair((Acc*)data + offset, even, odd);
}

// First cell of the vector that holds cell `cell`, a multiple of the lanes. With
// `overlap` the last vector is moved back to be a full one, where there are
// enough cells: what lies in two vectors is computed twice, with equal results.
template <typename Acc>
CARAFE_INLINE int64_t vector_start(int64_t cell, int64_t count, bool overlap) {
  constexpr int n = kLanes<Acc>;
  return overlap && cell + n > count && count >= n ? count - n : cell;
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
    bool overlap, // of the last two vectors
    int64_t ahead, // offset of the row that is packed next, for the prefetch
    Acc* row) { // scratch [ceil(count / lanes) * lanes * phases]
  constexpr int n = kLanes<Acc>;
  int64_t cell = 0;
  if (phases == 2 && is_dense<Acc>(tensor, stride)) {
    const Acc* source = (const Acc*)tensor.data + offset;
    for (; cell + n <= count; cell += n, target += block_stride) {
      for (int byte = 0; byte < 2 * kVectorBytes; byte += 64)
        __builtin_prefetch((const char*)(source + 2 * cell + ahead) + byte);
      load_pair(target, source + 2 * cell);
    }
    const int64_t start = vector_start<Acc>(cell, count, overlap);
    if (start < cell && cell < count)
      return load_pair(target, source + 2 * start);
  }
  if (cell == count)
    return;
  const int64_t rest = count - cell;
  const int64_t padded = ceil_div(rest, n) * n * phases;
  load_row(row, tensor, offset + cell * phases * stride, stride, rest * phases);
  fill_zero(row + rest * phases, padded - rest * phases);
  for (int64_t first = 0; first < rest; first += n, target += block_stride) {
    const Acc* block = row + vector_start<Acc>(first, rest, overlap) * phases;
    if (phases == 2) {
      load_pair(target, block);
      continue;
    }
    for (int64_t phase = 0; phase < phases; ++phase)
      for (int lane = 0; lane < n; ++lane)
        target[phase * n + lane] = block[lane * phases + phase];
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
    return store_pair(target, load(source), load(source + n));
  if (phases == 1)
    return store(target, load(source));
  for (int64_t phase = 0; phase < phases; ++phase)
    for (int lane = 0; lane < n; ++lane)
      target[lane * phases + phase] = source[phase * n + lane];
}

// The same into a tensor, for `count` <= lanes cells.
template <typename Acc>
void unpack_phases(
    const TensorView& tensor,
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

// Asks for a feature row that will be packed soon. Rows come from L2 or beyond,
// and packing one waits longer than it copies.
static inline void prefetch_features(
    const Params& p,
    int64_t image,
    int64_t channel,
    int64_t y,
    int64_t first, // as in pack_features
    int64_t cells) {
  if (y < 0 || y >= p.in_h || p.features.stride[3] != 1)
    return;
  const int64_t size = element_size(p.features.dtype), radius = p.kernel_size / 2;
  int64_t begin = first * p.step - radius, end = (first + cells) * p.step + radius;
  begin = begin < 0 ? 0 : begin;
  end = end < p.in_w ? end : p.in_w;
  const int64_t* stride = p.features.stride;
  const char* row = (const char*)p.features.data +
      (image * stride[0] + channel * stride[1] + y * stride[2]) * size;
  for (int64_t byte = begin * size; byte < end * size; byte += 64)
    __builtin_prefetch(row + byte);
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

// SPDX-License-Identifier: Apache-2.0
// Rows of a tensor of any dtype and stride to and from the accumulation type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../tensor_view.h"
#include "vector.h"

namespace carafe::CARAFE_ISA {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

struct FlushedBFloat16 : BFloat16 {}; // subnormals may become 0

// 16-bit values pass through float a vector at a time, in integer arithmetic
// that every instruction set has.
constexpr int kWide = kLanes<float>;
typedef uint32_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint16_t Shorts __attribute__((vector_size(kVectorBytes / 2)));

CARAFE_INLINE Vec<float> widen(Words raw, BFloat16) { return bits<Vec<float>>(raw << 16); }
CARAFE_INLINE Vec<float> widen(Words raw, Half) {
  const Words magnitude = (raw & 0x7fff) << 13;
  const Vec<float> scaled = bits<Vec<float>>(magnitude) * 0x1p112f; // subnormals too
  const Words special = Words(magnitude >= (0x7c00u << 13)) & 0x7f800000u;
  return bits<Vec<float>>(bits<Words>(scaled) | special | (raw & 0x8000) << 16);
}

// Two bfloat16 products a lane, summed in float. The instruction takes subnormals for 0.
#if defined(__AVX512BF16__)
constexpr bool kDots = true;
CARAFE_INLINE Vec<float> dot(Vec<float> sum, Vec<float> a, Vec<float> b) {
  return bits<Vec<float>>(_mm512_dpbf16_ps(bits<__m512>(sum), bits<__m512bh>(a), bits<__m512bh>(b)));
}
CARAFE_INLINE Tail<float> dot(Tail<float> sum, Tail<float> a, Tail<float> b) {
  return bits<Tail<float>>(_mm256_dpbf16_ps(bits<__m256>(sum), bits<__m256bh>(a), bits<__m256bh>(b)));
}
#else
constexpr bool kDots = false;
template <typename V>
CARAFE_INLINE V dot(V sum, V a, V b); // never called
#endif

// The upper halves of two floats as one lane: both are bfloat16 values.
CARAFE_INLINE Vec<float> join(Vec<float> first, Vec<float> second) {
  return bits<Vec<float>>(bits<Words>(first) >> 16 | bits<Words>(second));
}
// The first of the two; 0 for the other.
template <typename V>
CARAFE_INLINE V first_alone(V pair) {
  using Bits = typename VectorOf<uint32_t, sizeof(V)>::type;
  return bits<V>(bits<Bits>(pair) & 0xffff);
}

// Round to nearest, ties to even; a NaN becomes the quiet one.
CARAFE_INLINE Words narrow(Vec<float> value, BFloat16) {
  const Words raw = bits<Words>(value);
  const Words rounded = raw + 0x7fff + ((raw >> 16) & 1);
  return (value != value ? Words{} + 0x7fc00000u : rounded) >> 16;
}
CARAFE_INLINE Words narrow(Vec<float> value, Half) {
  const Words raw = bits<Words>(value);
  const Words magnitude = raw & 0x7fffffff;
  const Words normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Adding 0.5 aligns a subnormal's bits, and rounds them, in one addition.
  const Words subnormal = bits<Words>(bits<Vec<float>>(magnitude) + 0.5f) - bits<uint32_t>(0.5f);
  const Words small = Words(magnitude < (113u << 23));
  const Words large = Words(magnitude >= 0x477ff000u);
  const Words nan = Words(magnitude > 0x7f800000u);
  const Words finite = (small & subnormal) | (~small & normal);
  const Words result = (~large & finite) | (large & 0x7c00) | (nan & 0x200);
  return result | (raw >> 16 & 0x8000);
}

// The even lanes' values in the lower halves, the odd ones' in the upper.
template <typename S>
CARAFE_INLINE Words narrow_pair(Vec<float> even, Vec<float> odd, S) {
  return narrow(even, S{}) | narrow(odd, S{}) << 16;
}
#if defined(__AVX512BF16__)
CARAFE_INLINE Words narrow_pair(Vec<float> even, Vec<float> odd, FlushedBFloat16) {
  Vec<float> low, high;
  interleave<float>(even, odd, low, high, AllLanes<float>{});
  return bits<Words>(_mm512_cvtne2ps_pbh(bits<__m512>(high), bits<__m512>(low)));
}
#endif

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
CARAFE_INLINE bool is_dense(const Elements& tensor, int64_t stride) {
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

// The first `count` lanes, at most all; zeros in the others.
template <typename T>
CARAFE_INLINE Vec<T> load_part(const T* source, int64_t count) {
  T part[kLanes<T>] = {};
  __builtin_memcpy(part, source, size_t(count) * sizeof(T));
  return load(part);
}
#if defined(__AVX512BW__)
CARAFE_INLINE Vec<float> load_part(const float* source, int64_t count) {
  return bits<Vec<float>>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), source));
}
#endif

// The first `count` lanes, at most all.
template <typename T>
CARAFE_INLINE void store_part(T* target, Vec<T> value, int64_t count) {
  T part[kLanes<T>];
  store(part, value);
  __builtin_memcpy(target, part, size_t(count) * sizeof(T));
}
#if defined(__AVX512BW__)
CARAFE_INLINE void store_part(float* target, Vec<float> value, int64_t count) {
  _mm512_mask_storeu_ps(target, __mmask16((1u << count) - 1), bits<__m512>(value));
}
#endif

// At most a vector.
template <typename T>
CARAFE_INLINE void copy_part(T* target, const T* source, int64_t count) {
  __builtin_memcpy(target, source, size_t(count) * sizeof(T));
}
#if defined(__AVX512BW__)
CARAFE_INLINE void copy_part(float* target, const float* source, int64_t count) {
  const __mmask16 mask = __mmask16((1u << count) - 1);
  _mm512_mask_storeu_ps(target, mask, _mm512_maskz_loadu_ps(mask, source));
}
#endif

// As memcpy, for rows of a few vectors, where a call would take as long again.
template <typename Acc>
CARAFE_INLINE void copy_row(Acc* target, const Acc* source, int64_t count) {
  constexpr int n = kLanes<Acc>;
  if (count < n)
    return copy_part(target, source, count);
  for (int64_t i = 0; i + n < count; i += n)
    store(target + i, load(source + i));
  store(target + count - n, load(source + count - n)); // overlaps the one before
}

// The same from a row that was just stored in whole vectors: a load that spans two
// of those stores would wait for both.
template <typename Acc>
CARAFE_INLINE void copy_fresh_row(Acc* target, const Acc* source, int64_t count) {
  copy_row(target, source, count);
}
#if defined(__AVX512BW__)
CARAFE_INLINE void copy_fresh_row(float* target, const float* source, int64_t count) {
  constexpr int n = kLanes<float>;
  for (; count > n; count -= n, target += n, source += n)
    store(target, load(source));
  copy_part(target, source, count);
}
#endif

// target[i] = tensor[offset + i * stride]
template <typename Acc>
void load_row(
    Acc* target, // [count]
    const Elements& tensor,
    int64_t offset,
    int64_t stride,
    int64_t count) {
  const void* data = tensor.data;
  if (is_dense<Acc>(tensor, stride)) {
    copy_row(target, (const Acc*)data + offset, count);
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
    const Elements& tensor,
    int64_t offset,
    int64_t stride,
    const Acc* source, // [count]
    int64_t count) {
  void* data = tensor.data;
  if (is_dense<Acc>(tensor, stride)) {
    copy_fresh_row((Acc*)data + offset, source, count);
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

} // namespace
} // namespace carafe::CARAFE_ISA

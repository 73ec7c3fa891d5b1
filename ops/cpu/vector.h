// SPDX-License-Identifier: Apache-2.0
// Vectors of the instruction set this object is compiled for, in the vector
// extensions that GCC and clang share.
#pragma once

#include <cstdint>

#if defined(__AVX512BW__)
#pragma GCC diagnostic push
#if !defined(__clang__) // GCC 12 about its own undefined vectors
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h> // nothing there has linkage
#pragma GCC diagnostic pop
#endif

// The namespace of all that is compiled for one instruction set, so that the linker never
// takes one's code for another's. ops/build_native.py names it. Within it the names are
// local as well: GCC then inlines what is called once.
#if !defined(CARAFE_ISA)
#define CARAFE_ISA baseline
#endif

#define CARAFE_INLINE static inline __attribute__((always_inline))
#define CARAFE_UNROLL _Pragma("GCC unroll 16")

namespace carafe::CARAFE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true; // 32 vector registers, else 16
#else
constexpr bool kManyRegisters = false;
#endif

template <typename T, int bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <typename T>
using Vec = typename VectorOf<T, kVectorBytes>::type;
// Parts of a vector are written by lane masks as quickly as whole ones, and half a vector is
// done in half the time by cores that do 512 bits in two turns.
constexpr bool kAvx512 = kVectorBytes == 64;
template <typename T>
using Tail = typename VectorOf<T, kAvx512 ? kVectorBytes / 2 : kVectorBytes>::type;
template <typename T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <typename V, typename T>
CARAFE_INLINE V load_as(const T* source) { // any alignment
  V value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}
template <typename T>
CARAFE_INLINE Vec<T> load(const T* source) {
  return load_as<Vec<T>>(source);
}

template <typename T, typename V>
CARAFE_INLINE void store(T* target, V value) { // any alignment
  __builtin_memcpy(target, &value, sizeof value);
}

template <typename T>
CARAFE_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{}; // an addition to zero would stay in the code: of -0 it makes +0
}

// Keeps a value in a register. GCC would rather load it again for each of the
// instructions that use it, which makes loads the limit with 256-bit vectors,
// and would spill sums that fit.
// Without FMA, SSE2 needs its registers for the products: there it would hurt.
#if defined(__AVX2__)
#define CARAFE_IN_REGISTER(value) __asm__("" : "+v"(value))
#elif defined(__aarch64__)
#define CARAFE_IN_REGISTER(value) __asm__("" : "+w"(value))
#else
#define CARAFE_IN_REGISTER(value) ((void)(value))
#endif

template <typename To, typename From>
CARAFE_INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

template <int... I>
struct Indices {};
template <int N, int... I>
struct Count : Count<N - 1, N - 1, I...> {};
template <int... I>
struct Count<0, I...> {
  using type = Indices<I...>;
};
template <typename T>
using AllLanes = typename Count<kLanes<T>>::type;

// a0 b0 a1 b1 ...: the lower half of the lanes, then the upper half.
template <typename T, int... I>
CARAFE_INLINE void interleave(Vec<T> a, Vec<T> b, Vec<T>& low, Vec<T>& high, Indices<I...>) {
  constexpr int n = kLanes<T>;
  low = __builtin_shufflevector(a, b, (I % 2 * n + I / 2)...);
  high = __builtin_shufflevector(a, b, (I % 2 * n + n / 2 + I / 2)...);
}

// A half vector in both halves of a whole one; a whole one as it is.
template <typename T, typename V, int... I>
CARAFE_INLINE Vec<T> whole(V value, Indices<I...>) {
  return __builtin_shufflevector(value, value, I...);
}

template <typename T, int... I>
CARAFE_INLINE void deinterleave(Vec<T> low, Vec<T> high, Vec<T>& a, Vec<T>& b, Indices<I...>) {
  a = __builtin_shufflevector(low, high, (2 * I)...);
  b = __builtin_shufflevector(low, high, (2 * I + 1)...);
}

// Lane j of vector i to lane i of vector j: as many perfect shuffles of all the
// elements as a lane number has bits.
template <typename T>
CARAFE_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int n = kLanes<T>;
  for (int done = 1; done < n; done *= 2) {
    Vec<T> shuffled[n];
    CARAFE_UNROLL
    for (int i = 0; i < n / 2; ++i)
      interleave<T>(rows[i], rows[i + n / 2], shuffled[2 * i], shuffled[2 * i + 1], AllLanes<T>{});
    CARAFE_UNROLL
    for (int i = 0; i < n; ++i)
      rows[i] = shuffled[i];
  }
}

// Constants of exp: x = n ln 2 + r, |r| <= ln 2 / 2, then a Taylor polynomial
// whose first term left out is below half a unit in the last place.
template <typename T>
struct ExpTraits;
template <>
struct ExpTraits<float> {
  using Int = int32_t;
  static constexpr int kMantissa = 23, kBias = 127, kDegree = 7;
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.f; // 1.5 * 2^23: adding rounds to int
  static constexpr float kSmallest = -87.f;
};
template <>
struct ExpTraits<double> {
  using Int = int64_t;
  static constexpr int kMantissa = 52, kBias = 1023, kDegree = 13;
  static constexpr double kLn2High = 6.93145751953125e-1;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kRound = 6755399441055744.; // 1.5 * 2^52
  static constexpr double kSmallest = -708.;
};

// At compile time: GCC left the divisions in the loop over vectors.
template <typename T>
struct Factorials {
  T inverse[ExpTraits<T>::kDegree + 1] = {};
  constexpr Factorials() {
    T factorial = 1;
    for (int i = 0; i <= ExpTraits<T>::kDegree; ++i) {
      factorial *= i ? T(i) : T(1);
      inverse[i] = T(1) / factorial;
    }
  }
};

// exp(x) for x <= 0; 0 below the smallest normal result; NaN stays NaN.
template <typename T>
CARAFE_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  using Traits = ExpTraits<T>;
  using Int = typename Traits::Int;
  const Vec<T> shifted = x * T(1.44269504088896340736) + Traits::kRound;
  const Vec<T> n = shifted - Traits::kRound;
  const Vec<T> r = (x - n * Traits::kLn2High) - n * Traits::kLn2Low;
  constexpr Factorials<T> factorials;
  Vec<T> sum = splat<T>(factorials.inverse[Traits::kDegree]);
  CARAFE_UNROLL
  for (int i = Traits::kDegree - 1; i >= 0; --i)
    sum = sum * r + factorials.inverse[i];
  // The low bits of `shifted` hold n as an integer.
  const Vec<Int> exponent = bits<Vec<Int>>(shifted) - bits<Vec<Int>>(splat<T>(Traits::kRound)) +
      Int(Traits::kBias);
  const Vec<T> result = sum * bits<Vec<T>>(exponent << Traits::kMantissa);
  return x < Traits::kSmallest ? Vec<T>{} : result;
}

} // namespace
} // namespace carafe::CARAFE_ISA

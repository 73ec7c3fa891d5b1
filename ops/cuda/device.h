// SPDX-License-Identifier: Apache-2.0
// What the kernels ask of the device: memory access, conversions, asynchronous
// copies, launches. tests/ops/cuda_emulator has a second version for the CPU.
#pragma once

#include "kernels.h"

#if defined(CARAFE_EMULATED)
#include "emulator.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define CARAFE_DEVICE static __device__ __forceinline__
// Dynamic shared memory, as an array of floats.
#define CARAFE_SHARED(name) extern __shared__ __align__(16) float name[]

namespace carafe {

template <typename T>
CARAFE_DEVICE T load_global(const T* source) { // read-only while the kernel runs
  return __ldg(source);
}

template <typename T>
CARAFE_DEVICE void store_global(T* target, T value) { // read by no later load of the kernel
  __stcs(target, value);
}

CARAFE_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
CARAFE_DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
CARAFE_DEVICE uint16_t float_to_bfloat16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

// The value of the lane `distance`, a constant, further on; past either end a lane's own.
// The whole warp takes part.
CARAFE_DEVICE float shuffle_by(float value, int distance) {
  if (distance > 0)
    return __shfl_down_sync(0xffffffffu, value, distance);
  return distance < 0 ? __shfl_up_sync(0xffffffffu, value, -distance) : value;
}

template <typename T>
CARAFE_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Copy kBytes (4, 8 or 16, aligned to that) to shared memory, 16 past L1 if kPastL1. Done
// for this thread after wait_copies, for others after a barrier more.
template <int kBytes, bool kPastL1 = false>
CARAFE_DEVICE void copy_async(void* shared, const void* global) {
#if __CUDA_ARCH__ >= 800
  const unsigned target = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  if (kBytes == 16 && kPastL1)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(global));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(target), "l"(global), "n"(kBytes));
#else
  if (kBytes == 16)
    *static_cast<uint4*>(shared) = load_global(static_cast<const uint4*>(global));
  else if (kBytes == 8)
    *static_cast<uint2*>(shared) = load_global(static_cast<const uint2*>(global));
  else
    *static_cast<uint32_t*>(shared) = load_global(static_cast<const uint32_t*>(global));
#endif
}

CARAFE_DEVICE void commit_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;");
#endif
}

template <int kPending> // groups that may still be under way
CARAFE_DEVICE void wait_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// d += a * b for 16 channels x 8 columns over 16 taps, pairs of 16-bit values to a
// word, the matrices spread over the warp as PTX says of mma.m16n8k16. From 8.0 on.
template <int kBFloat16>
CARAFE_DEVICE void multiply_add(float* d, const uint32_t* a, const uint32_t* b) { // [4], [4], [2]
#if __CUDA_ARCH__ >= 800
  if constexpr (kBFloat16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap(); // has_tensor_cores kept it away
#endif
}

// Whether the code of a kernel that this device runs was compiled for 8.0 or later.
template <typename... Parameters>
bool has_tensor_cores(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 80;
}

template <typename... Parameters, typename... Arguments>
int launch(
    void (*kernel)(Parameters...),
    int64_t blocks,
    int64_t threads,
    int64_t shared_bytes,
    void* stream,
    const Arguments&... arguments) {
  if (blocks > INT32_MAX)
    return cudaErrorInvalidConfiguration;
  cudaGetLastError(); // an earlier call's error is not this one's
  constexpr int64_t kUnasked = 48 << 10; // bytes of shared memory that no kernel has to ask for
  if (shared_bytes > kUnasked) {
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const int error = cudaFuncSetAttribute(kernel, attribute, int(shared_bytes));
    if (error)
      return error;
  }
  kernel<<<unsigned(blocks), unsigned(threads), size_t(shared_bytes), static_cast<cudaStream_t>(stream)>>>(
      arguments...);
  return cudaGetLastError();
}

} // namespace carafe

#endif // CARAFE_EMULATED

namespace carafe {

// 16-bit values travel as bits, and which kind they are as a run-time flag:
// one instantiation serves both.
CARAFE_DEVICE float widen(uint16_t bits, Dtype dtype) {
  return dtype == Dtype::kBFloat16 ? __uint_as_float(uint32_t(bits) << 16) : half_to_float(bits);
}

CARAFE_DEVICE uint16_t narrow(float value, Dtype dtype) {
  return dtype == Dtype::kBFloat16 ? float_to_bfloat16(value) : float_to_half(value);
}

// One element whose width is known, float or 16 bits: no branch, so that a row
// of loads can be under way at once.
CARAFE_DEVICE float as_float(float value, Dtype) { return value; }
CARAFE_DEVICE float as_float(uint16_t bits, Dtype dtype) { return widen(bits, dtype); }

template <typename T>
CARAFE_DEVICE float load_element(const T* source, Dtype dtype) {
  return as_float(load_global(source), dtype);
}

CARAFE_DEVICE void store_element(float* target, Dtype, float value) { store_global(target, value); }
CARAFE_DEVICE void store_element(uint16_t* target, Dtype dtype, float value) {
  store_global(target, narrow(value, dtype));
}

// One element of any dtype, float64 only where sums are; the offset is in elements.
template <typename Acc>
CARAFE_DEVICE Acc load(const void* data, int64_t offset, Dtype dtype) {
  if (dtype == Dtype::kFloat)
    return load_global(static_cast<const float*>(data) + offset);
  if constexpr (sizeof(Acc) == 8)
    if (dtype == Dtype::kDouble)
      return load_global(static_cast<const double*>(data) + offset);
  return widen(load_global(static_cast<const uint16_t*>(data) + offset), dtype);
}

template <typename Acc>
CARAFE_DEVICE void store(void* data, int64_t offset, Dtype dtype, Acc value) {
  if constexpr (sizeof(Acc) == 8)
    if (dtype == Dtype::kDouble) {
      store_global(static_cast<double*>(data) + offset, value);
      return;
    }
  if (dtype == Dtype::kFloat)
    store_global(static_cast<float*>(data) + offset, float(value));
  else
    store_global(static_cast<uint16_t*>(data) + offset, narrow(float(value), dtype));
}

CARAFE_DEVICE float exponential(float x) { return expf(x); }
CARAFE_DEVICE double exponential(double x) { return exp(x); }

constexpr int64_t kMostShared = 64 << 10; // bytes of shared memory that every device gives a block

// The host's copy of a run-time Dtype question.
inline bool is_16_bit(Dtype dtype) { return dtype == Dtype::kHalf || dtype == Dtype::kBFloat16; }

inline bool is_aligned(const void* data, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(data) % bytes == 0;
}

} // namespace carafe

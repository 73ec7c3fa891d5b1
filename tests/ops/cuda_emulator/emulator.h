// SPDX-License-Identifier: Apache-2.0
// The second version of ops/cuda/device.h: runs the CUDA kernels on the CPU, to
// prove their logic, not to be fast. Threads are fibers, resumed in an order that
// the caller permutes: a missing barrier gives another result in some order.
// Shared memory starts as NaN, asynchronous copies happen when they are waited for,
// or in permuted orders at any time before, and global accesses must be aligned and
// inside a known tensor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#define CARAFE_DEVICE static inline
#define CARAFE_SHARED(name) float* name = static_cast<float*>(emulator::shared_memory())
#define __global__ static
#define __device__
#define __host__
#define __launch_bounds__(...)

struct Dim3 {
  unsigned x, y, z;
};
extern Dim3 threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }

namespace emulator {

void* shared_memory();
void block_barrier();
void warp_barrier();
void* exchange_slot(int lane); // 8 bytes of a lane, good until the exchange after the next
void next_exchange();
void check_global(const void* address, size_t bytes); // throws
void defer_copy(void* shared, const void* global, size_t bytes);
void commit_copies();
void wait_copies(size_t pending);
int launch(const std::function<void()>& thread, int64_t blocks, int64_t threads, int64_t shared_bytes);

template <typename To, typename From>
To bits(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(To));
  return result;
}

} // namespace emulator

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::warp_barrier(); }
inline float __uint_as_float(uint32_t bits) { return emulator::bits<float>(bits); }
inline uint32_t __float_as_uint(float value) { return emulator::bits<uint32_t>(value); }

namespace carafe {

template <typename T>
T load_global(const T* source) {
  emulator::check_global(source, sizeof(T));
  return *source;
}

template <typename T>
void store_global(T* target, T value) {
  emulator::check_global(target, sizeof(T));
  *target = value;
}

inline float half_to_float(uint16_t h) {
  const int exponent = h >> 10 & 31, mantissa = h & 1023;
  const float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
      : exponent                         ? std::ldexp(float(1024 + mantissa), exponent - 25)
                                         : std::ldexp(float(mantissa), -24);
  return h >> 15 ? -magnitude : magnitude;
}

inline uint16_t float_to_half(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  if (std::isnan(value))
    return sign | 0x7e00;
  if (magnitude >= 65520)
    return sign | 0x7c00;
  int exponent = -14;
  if (magnitude > 0)
    std::frexp(magnitude, &exponent);
  const int unit = (exponent < -13 ? -13 : exponent) - 11; // of the last place
  const int mantissa = int(std::nearbyint(std::ldexp(magnitude, -unit)));
  return sign | uint16_t(mantissa + ((unit + 24) << 10)); // a carry goes on to the exponent
}

inline uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = emulator::bits<uint32_t>(value);
  return std::isnan(value) ? 0x7fff : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <typename T>
T shuffle(T value, int lane) {
  emulator::next_exchange();
  std::memcpy(emulator::exchange_slot(int(threadIdx.x) % 32), &value, sizeof(T));
  emulator::warp_barrier();
  std::memcpy(&value, emulator::exchange_slot(lane & 31), sizeof(T));
  return value;
}

inline float shuffle_by(float value, int distance) {
  const int lane = int(threadIdx.x) % 32, from = lane + distance;
  return distance == 0 ? value : shuffle(value, from < 0 || from > 31 ? lane : from);
}

template <typename T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, int(threadIdx.x) % 32 ^ mask);
}

template <int kBytes, bool kPastL1 = false>
void copy_async(void* shared, const void* global) {
  if (reinterpret_cast<uintptr_t>(shared) % kBytes)
    throw std::runtime_error("a copy to shared memory is not aligned");
  emulator::check_global(global, kBytes);
  emulator::defer_copy(shared, global, kBytes);
}

inline void commit_copies() { emulator::commit_copies(); }

template <int kPending>
void wait_copies() {
  emulator::wait_copies(kPending);
}

// mma.m16n8k16, its fragments as the PTX ISA gives them: `group` is lane / 4, `pair`
// lane % 4; element i of a fragment is the low (even i) or high half of word i / 2.
template <int kBFloat16>
void multiply_add(float* d, const uint32_t* a, const uint32_t* b) {
  const auto value = [](uint32_t word, int i) {
    const uint16_t half = uint16_t(i % 2 ? word >> 16 : word);
    return kBFloat16 ? __uint_as_float(uint32_t(half) << 16) : half_to_float(half);
  };
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  float left[16][16], right[16][8];
  for (int word = 0; word < 6; ++word) {
    emulator::next_exchange();
    std::memcpy(emulator::exchange_slot(int(threadIdx.x) % 32), words + word, 4);
    emulator::warp_barrier();
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t bits;
      std::memcpy(&bits, emulator::exchange_slot(lane), 4);
      const int group = lane / 4, pair = lane % 4;
      for (int half = 0; half < 2; ++half) {
        const int i = (word < 4 ? word : word - 4) * 2 + half;
        if (word < 4)
          left[i < 2 || (i >= 4 && i < 6) ? group : group + 8][pair * 2 + (i & 1) + (i >= 4 ? 8 : 0)] = value(
              bits, i);
        else
          right[pair * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = value(bits, i);
      }
    }
  }
  const int group = int(threadIdx.x) % 32 / 4, pair = int(threadIdx.x) % 4;
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k)
      d[i] += left[i < 2 ? group : group + 8][k] * right[k][pair * 2 + (i & 1)];
}

template <typename... Parameters>
bool has_tensor_cores(void (*)(Parameters...)) {
  return true;
}

template <typename... Parameters, typename... Arguments>
int launch(
    void (*kernel)(Parameters...),
    int64_t blocks,
    int64_t threads,
    int64_t shared_bytes,
    void*,
    const Arguments&... arguments) {
  return emulator::launch([&] { kernel(arguments...); }, blocks, threads, shared_bytes);
}

} // namespace carafe

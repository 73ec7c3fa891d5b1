// SPDX-License-Identifier: Apache-2.0
// Chooses the instruction set. At every call, which costs nothing beside the
// kernels, so that one test process can compare the sets.
#include <cstdlib>
#include <cstring>

#include "params.h"

namespace carafe {

const KernelTable& kernels() {
#if defined(__x86_64__)
  // These ask the operating system as well as the processor.
  const bool avx2 = __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq");
  const char* wish = std::getenv("CARAFE_CPU_ISA");
  const auto allows = [wish](const char* isa) {
    return wish == nullptr || std::strcmp(wish, isa) == 0;
  };
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  // A wish that this machine cannot serve falls to the next one below.
  if (bf16 && allows("avx512_bf16"))
    return kernels_avx512_bf16;
  if (avx512 && (allows("avx512") || allows("avx512_bf16")))
    return kernels_avx512;
  if (avx2 && (allows("avx2") || allows("avx512") || allows("avx512_bf16")))
    return kernels_avx2;
#endif
  return kernels_baseline;
}

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// Which kernel serves a problem: the instruction set is the best that the processor
// has, or the one that CARAFE_CPU_ISA names. Chosen at every call, which costs nothing
// beside the kernels, so that one test process can compare the sets.
#include <cstdlib>
#include <cstring>

#include "kernels.h"

namespace carafe {

// Each is defined by kernels.cpp, compiled with the flags of ops/build_native.py.
namespace baseline {
extern const KernelTable kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable kernels;
}
namespace avx512 {
extern const KernelTable kernels;
}
namespace avx512_bf16 {
extern const KernelTable kernels;
}
#endif

namespace {

#if defined(__x86_64__)
// These ask the operating system as well as the processor.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
bool has_avx512_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

struct InstructionSet {
  const KernelTable& kernels;
  bool (*is_supported)();
};

// The best first.
const InstructionSet kInstructionSets[] = {
#if defined(__x86_64__)
    {avx512_bf16::kernels, has_avx512_bf16},
    {avx512::kernels, has_avx512},
    {avx2::kernels, has_avx2},
#endif
    {baseline::kernels, [] { return true; }},
};

// Lanes as channels, if both maps are channels_last. A group of fewer channels than
// lanes is quicker with cells as lanes.
bool is_last(const Problem& p, const KernelTable& table) {
  const int64_t lanes = table.vector_bytes / int64_t(p.wide ? sizeof(double) : sizeof(float));
  return p.features.stride[1] == 1 && p.output.stride[1] == 1 && group_channels(p) >= lanes;
}

} // namespace

const KernelTable& kernels() {
  const char* wish = std::getenv("CARAFE_CPU_ISA");
  bool allowed = wish == nullptr;
  for (const InstructionSet& set : kInstructionSets) {
    // A wish that this machine cannot serve falls to the next one below.
    allowed = allowed || std::strcmp(wish, set.kernels.isa) == 0;
    if (allowed && set.is_supported())
      return set.kernels;
  }
  return baseline::kernels;
}

const Kernel& select_reassemble(const Problem& p) {
  const KernelTable& table = kernels();
  return (is_last(p, table) ? table.reassemble_last : table.reassemble)[p.wide];
}

const Kernel& select_correlate(const Problem& p) { return kernels().correlate[p.wide]; }

const Kernel& select_scatter(const Problem& p) { return kernels().scatter[p.wide]; }

} // namespace carafe

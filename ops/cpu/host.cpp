// SPDX-License-Identifier: Apache-2.0
// The CPU device: results get large pages, items of work go to the threads.
#include "../host.h"

#include <atomic>
#include <cstdlib>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace carafe {
namespace {

// Multiply-adds, about 100 us of them: below that a second thread costs more than it gives.
constexpr int64_t kThreadWork = 2 << 20;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
constexpr uintptr_t kPage = 4096;
// From here on malloc maps fresh pages for every call (M_MMAP_THRESHOLD grows to 32 MiB at most).
constexpr size_t kFreshBytes = size_t(32) << 20;
#endif

void run(const Kernel& kernel, const Problem& p) {
  const Plan plan = kernel.plan(p, get_num_threads());
  const int64_t grain = kThreadWork / (plan.item_work > 0 ? plan.item_work : 1) + 1;
  std::atomic<bool> out_of_memory{false};
  parallel_for(0, plan.items, grain, [&](int64_t begin, int64_t end) {
    // No exception may leave this function: its text would be lost.
    void* scratch = std::aligned_alloc(
        kCacheLine, (plan.scratch_bytes + kCacheLine - 1) / kCacheLine * kCacheLine);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    kernel.run(p, plan, begin, end, scratch);
    std::free(scratch);
  });
  CARAFE_CHECK(!out_of_memory, "out of memory: ", plan.scratch_bytes, " bytes of scratch a thread");
}

std::string cpu_capability() { return kernels().isa; }

} // namespace

// Touching fresh pages one by one costs more than the operator: ask for large
// ones. CARAFE_HUGEPAGES=0 switches it off. A hint only: what it answers does not
// matter.
void device::allocated(const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t size = size_t(tensor.numel()) * tensor.element_size();
  const char* wish = std::getenv("CARAFE_HUGEPAGES");
  if (size < kFreshBytes || (wish != nullptr && wish[0] == '0'))
    return;
  const uintptr_t begin = uintptr_t(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  madvise((void*)first, (begin + size - first) / kPage * kPage, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

void device::reassemble(const Problem& p, const Tensor&, const Tensor&) { run(select_reassemble(p), p); }

void device::correlate(const Problem& p, const Tensor&, const Tensor&) { run(select_correlate(p), p); }

void device::scatter(const Problem& p, const Tensor&, const Tensor&) { run(select_scatter(p), p); }

} // namespace carafe

CARAFE_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", CARAFE_KERNEL(&carafe::cpu_capability));
}

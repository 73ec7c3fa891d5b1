// SPDX-License-Identifier: Apache-2.0
// The CPU device: results get large pages, calls become Params, items go to the threads.
#include "../host.h"

#include <atomic>
#include <cstdlib>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "params.h"

namespace carafe {
namespace {

void run(const Operator& op, Params& p) {
  op.plan(p, get_num_threads());
  // Below about 100 us of work a second thread costs more than it gives.
  const int64_t grain = (2 << 20) / (p.item_work > 0 ? p.item_work : 1) + 1;
  std::atomic<bool> out_of_memory{false};
  parallel_for(0, p.items, grain, [&](int64_t begin, int64_t end) {
    // No exception may leave this function: its text would be lost.
    void* scratch = std::aligned_alloc(64, (p.scratch_bytes + 63) / 64 * 64);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    op.run(p, begin, end, scratch);
    std::free(scratch);
  });
  CARAFE_CHECK(!out_of_memory, "out of memory: ", p.scratch_bytes, " bytes of scratch a thread");
}

std::string cpu_capability() { return kernels().isa; }

} // namespace

// From 32 MiB on malloc maps fresh pages for every call, and touching them one
// by one costs more than the operator: ask for large ones. CARAFE_HUGEPAGES=0
// switches it off. A hint only: what it answers does not matter.
void device::allocated(const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t size = size_t(tensor.numel()) * tensor.element_size();
  const char* wish = std::getenv("CARAFE_HUGEPAGES");
  if (size < (size_t(32) << 20) || (wish != nullptr && wish[0] == '0'))
    return;
  const uintptr_t page = 4096, begin = uintptr_t(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  madvise((void*)first, (begin + size - first) / page * page, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

void device::reassemble(const Call& call) {
  Params p = describe<Params>(call);
  p.features = view(*call.features);
  p.masks = view(*call.masks);
  p.output = mutable_view(*call.output);
  run(kernels().reassemble[call.wide], p);
}

void device::correlate(const Call& call) {
  Params p = describe<Params>(call);
  p.features = view(*call.features);
  p.output = view(*call.output);
  if (call.softmax)
    p.masks = view(*call.masks);
  p.grad_masks = mutable_view(*call.grad_masks);
  run(kernels().correlate[call.wide], p);
}

void device::scatter(const Call& call) {
  Params p = describe<Params>(call);
  p.features = mutable_view(*call.features);
  p.output = view(*call.output);
  p.masks = view(*call.masks);
  run(kernels().scatter[call.wide], p);
}

} // namespace carafe

CARAFE_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", CARAFE_KERNEL(&carafe::cpu_capability));
}

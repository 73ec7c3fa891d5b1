// SPDX-License-Identifier: Apache-2.0
// Runs the CPU kernels without torch, so that they can be tested where no torch is:
// built by another compiler, or for another processor. cross.py sends calls to stdin
// and reads each result from stdout.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "../../ops/cpu/kernels.h"
#include "../../ops/sizes.h"

namespace {

using namespace carafe;

// As cross.py packs it; the bytes of the tensors that are read follow.
struct Request {
  int64_t op; // reassemble, correlate, scatter
  int64_t softmax, wide;
  int64_t batch, channels, in_h, in_w, kernel_size, groups, scale_factor, down;
  int64_t threads, pieces; // what `plan` is told; in how many runs the items are done
  struct {
    int64_t bytes; // none: the operator does not have it
    int64_t dtype, stride[4];
  } tensors[4]; // features, output, masks, grad_masks
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

// Memory between pages that may not be touched, ending at one. It starts as 0xff, a NaN
// in every dtype, and so does what is left of its first page.
struct Fenced {
  size_t page = size_t(sysconf(_SC_PAGESIZE)), size, whole;
  char *first, *data;

  explicit Fenced(size_t bytes) : size(bytes), whole((bytes + page - 1) / page * page) {
    void* mapped = mmap(
        nullptr, whole + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
      fail("out of memory");
    first = (char*)mapped + page;
    data = first + whole - size;
    std::memset(first, 0xff, whole);
    mprotect(mapped, page, PROT_NONE);
    mprotect(first + whole, page, PROT_NONE);
  }
  Fenced(const Fenced&) = delete;
  ~Fenced() { munmap(first - page, whole + 2 * page); }

  void check() const {
    for (const char* byte = first; byte < data; ++byte)
      if (*byte != char(0xff))
        fail("written before the start");
  }
};

// As host.cpp and cpu/host.cpp do it, but for the threads: the last items first, and
// each run with scratch of its own that nothing has written.
void serve(const Request& request) {
  const Sizes sizes{request.batch,       request.channels, request.in_h,         request.in_w,
                    request.kernel_size, request.groups,   request.scale_factor, request.down != 0};
  Problem p = make_problem(sizes, request.softmax, request.wide);
  const int written[] = {1, 3, 0}; // by each operator
  std::unique_ptr<Fenced> memory[4];
  TensorView views[4] = {};
  for (int i = 0; i < 4; ++i) {
    const auto& tensor = request.tensors[i];
    if (tensor.bytes == 0)
      continue;
    memory[i].reset(new Fenced(size_t(tensor.bytes)));
    views[i] = {{memory[i]->data, Dtype(tensor.dtype)}, {}};
    std::memcpy(views[i].stride, tensor.stride, sizeof tensor.stride);
    if (i == written[request.op])
      continue;
    if (std::fread(memory[i]->data, 1, memory[i]->size, stdin) != memory[i]->size)
      fail("the call ends early");
    mprotect(memory[i]->first, memory[i]->whole, PROT_READ);
  }

  p.features = views[0];
  p.output = views[1];
  p.masks = mask_view(views[2], p);
  p.grad_masks = mask_view(views[3], p);
  const Kernel& kernel = request.op == 0 ? select_reassemble(p)
      : request.op == 1                  ? select_correlate(p)
                                         : select_scatter(p);
  const Plan plan = kernel.plan(p, request.threads);
  for (int64_t piece = request.pieces - 1; piece >= 0; --piece) {
    const Fenced scratch((plan.scratch_bytes + kCacheLine - 1) / kCacheLine * kCacheLine);
    const int64_t begin = piece * plan.items / request.pieces;
    kernel.run(p, plan, begin, (piece + 1) * plan.items / request.pieces, scratch.data);
    scratch.check();
  }
  const Fenced& result = *memory[written[request.op]];
  result.check();
  std::fwrite(result.data, 1, result.size, stdout);
  std::fflush(stdout);
}

} // namespace

int main() {
  std::printf("%s\n", kernels().isa);
  std::fflush(stdout);
  for (Request request; std::fread(&request, sizeof request, 1, stdin) == 1;)
    serve(request);
}

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

#include "../../ops/cpu/params.h"

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

template <Map map>
void set_cells(Params& p, int64_t scale_factor) {
  p.phases = phases<map>(scale_factor);
  p.step = centre_step<map>(scale_factor);
  p.cells_h = cells<map>(p.in_h, scale_factor);
  p.cells_w = cells<map>(p.in_w, scale_factor);
}

// As host.h and cpu/host.cpp do it, but for the threads: the last items first, and
// each run with scratch of its own that nothing has written.
void serve(const Request& request) {
  Params p{};
  p.batch = request.batch;
  p.channels = request.channels;
  p.groups = request.groups;
  p.in_h = request.in_h;
  p.in_w = request.in_w;
  p.kernel_size = request.kernel_size;
  p.softmax = request.softmax;
  (request.down ? set_cells<Map::kDown> : set_cells<Map::kUp>)(p, request.scale_factor);

  TensorView* const views[] = {&p.features, &p.output, &p.masks, &p.grad_masks};
  const int written[] = {1, 3, 0}; // by each operator
  std::unique_ptr<Fenced> memory[4];
  for (int i = 0; i < 4; ++i) {
    const auto& tensor = request.tensors[i];
    if (tensor.bytes == 0)
      continue;
    memory[i].reset(new Fenced(size_t(tensor.bytes)));
    *views[i] = {memory[i]->data, {}, Dtype(tensor.dtype)};
    std::memcpy(views[i]->stride, tensor.stride, sizeof tensor.stride);
    if (i == written[request.op])
      continue;
    if (std::fread(memory[i]->data, 1, memory[i]->size, stdin) != memory[i]->size)
      fail("the call ends early");
    mprotect(memory[i]->first, memory[i]->whole, PROT_READ);
  }

  const KernelTable& table = kernels();
  const Operator(&both)[2] = request.op == 0 ? table.reassemble
      : request.op == 1                      ? table.correlate
                                             : table.scatter;
  const Operator& op = both[request.wide];
  op.plan(p, request.threads);
  for (int64_t piece = request.pieces - 1; piece >= 0; --piece) {
    const Fenced scratch((p.scratch_bytes + 63) / 64 * 64);
    op.run(
        p, piece * p.items / request.pieces, (piece + 1) * p.items / request.pieces, scratch.data);
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

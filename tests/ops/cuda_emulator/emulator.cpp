// SPDX-License-Identifier: Apache-2.0
// Threads of a block as fibers of one operating system thread.
#include "emulator.h"

#include <algorithm>
#include <csetjmp>
#include <deque>
#include <map>
#include <memory>
#include <random>

#include <ucontext.h>

Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
namespace {

constexpr size_t kStack = 128 << 10, kGuard = 4096;

struct Copy {
  void* shared;
  const void* global;
  size_t bytes;
};

struct Barrier {
  int waiting = 0, generation = 0;
};

struct Fiber {
  ucontext_t start;
  jmp_buf resume;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool started, done;
  int exchanges;
  std::deque<std::vector<Copy>> copies; // groups; the last one is open
};

std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Barrier> warps;
std::vector<uint64_t> slots; // [warp][2][lane]
Barrier block;
Fiber* current;
ucontext_t scheduler_start;
jmp_buf scheduler;
const std::function<void()>* body;
std::string error;
std::vector<char> memory; // guard, shared memory, guard
std::map<uintptr_t, size_t> tensors; // begin to bytes
int64_t steps; // barriers reached and threads ended
std::mt19937 generator; // of the order
unsigned order; // 0: ascending, 1: descending, others: a permutation

// Without the system call that swapcontext makes for the signal mask.
void yield() {
  if (_setjmp(current->resume) == 0)
    _longjmp(scheduler, 1);
}

void land(const Copy& copy) { std::memcpy(copy.shared, copy.global, copy.bytes); }

// Copies may land at any time before they are waited for.
void land_some() {
  if (order > 1)
    for (std::vector<Copy>& group : current->copies)
      for (size_t i = group.size(); i-- > 0;)
        if (generator() % 4 == 0) {
          land(group[i]);
          group.erase(group.begin() + i);
        }
}

void run_fiber() {
  try {
    (*body)();
    emulator::wait_copies(0);
  } catch (const std::exception& caught) {
    error = caught.what();
  }
  current->done = true;
  ++steps;
  _longjmp(scheduler, 1);
}

void wait(Barrier& barrier, int threads) {
  const int generation = barrier.generation;
  land_some();
  ++steps;
  if (++barrier.waiting == threads) {
    barrier.waiting = 0;
    ++barrier.generation;
  }
  while (barrier.generation == generation)
    yield();
}

void resume(unsigned thread) {
  current = fibers[thread].get();
  threadIdx = {thread, 0, 0};
  if (_setjmp(scheduler) != 0)
    return;
  if (current->started)
    _longjmp(current->resume, 1);
  current->started = true;
  swapcontext(&scheduler_start, &current->start);
}

void run_block(int threads, size_t shared_bytes) {
  memory.assign(shared_bytes + 2 * kGuard, char(0xff)); // NaN
  warps.assign((threads + 31) / 32, {});
  slots.assign(warps.size() * 64, 0);
  block = {};
  std::vector<unsigned> turns;
  for (int i = 0; i < threads; ++i) {
    if (int(fibers.size()) == i)
      fibers.emplace_back(new Fiber);
    Fiber& fiber = *fibers[i];
    fiber.started = fiber.done = false;
    fiber.exchanges = 0;
    fiber.copies.assign(1, {});
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kStack;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, run_fiber, 0);
    turns.push_back(order == 0 ? i : threads - 1 - i);
  }
  generator.seed(order);
  for (bool alive = true; alive && error.empty();) {
    if (order > 1)
      std::shuffle(turns.begin(), turns.end(), generator);
    alive = false;
    const int64_t before = steps;
    for (const unsigned thread : turns)
      if (!fibers[thread]->done) {
        resume(thread);
        alive |= !fibers[thread]->done;
      }
    if (alive && steps == before && error.empty())
      error = "threads wait at different barriers";
  }
  for (size_t i = 0; i < kGuard && error.empty(); ++i)
    if (memory[i] != char(0xff) || memory[memory.size() - 1 - i] != char(0xff))
      error = "a write beside the shared memory";
}

} // namespace

void* shared_memory() { return memory.data() + kGuard; }
void block_barrier() { wait(block, int(blockDim.x)); }
void warp_barrier() { wait(warps[threadIdx.x / 32], 32); }
void next_exchange() { ++current->exchanges; }
void* exchange_slot(int lane) { return &slots[threadIdx.x / 32 * 64 + current->exchanges % 2 * 32 + lane]; }

void check_global(const void* address, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  auto found = tensors.upper_bound(begin);
  if (begin % bytes)
    throw std::runtime_error("an access of " + std::to_string(bytes) + " bytes is not aligned");
  if (found == tensors.begin() || (--found, begin + bytes > found->first + found->second))
    throw std::runtime_error("an access outside the tensors");
}

void defer_copy(void* shared, const void* global, size_t bytes) {
  current->copies.back().push_back({shared, global, bytes});
}

void commit_copies() { current->copies.emplace_back(); }

void wait_copies(size_t pending) {
  for (; current->copies.size() > pending + 1; current->copies.pop_front())
    for (const Copy& copy : current->copies.front())
      land(copy);
}

int launch(const std::function<void()>& thread, int64_t blocks, int64_t threads, int64_t shared_bytes) {
  body = &thread;
  blockDim = {unsigned(threads), 1, 1};
  gridDim = {unsigned(blocks), 1, 1};
  if (threads % 32 || shared_bytes > (64 << 10))
    error = "a launch that not every device takes";
  for (int64_t i = 0; i < blocks && error.empty(); ++i) {
    blockIdx = {unsigned(order == 1 ? blocks - 1 - i : i), 0, 0};
    run_block(int(threads), size_t(shared_bytes));
  }
  return error.empty() ? 0 : 1;
}

} // namespace emulator

// The entries for ctypes.
extern "C" {

void emulator_reset(unsigned order) {
  emulator::order = order;
  emulator::tensors.clear();
  emulator::error.clear();
}

void emulator_tensor(const void* data, size_t bytes) {
  emulator::tensors[reinterpret_cast<uintptr_t>(data)] = bytes;
}

const char* emulator_error() { return emulator::error.c_str(); }
}

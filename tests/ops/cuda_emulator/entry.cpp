// SPDX-License-Identifier: Apache-2.0
// One C function for ctypes: an operator of ops/cuda on tensors given by
// address, dtype and strides.
#include <cstring>
#include <vector>

#include "../../../ops/cuda/kernels.h"
#include "../../../ops/sizes.h"

using carafe::Launched;
using carafe::Problem;
using carafe::TensorView;

extern "C" void emulator_tensor(const void* data, size_t bytes);

namespace {

// As ops/cuda/host.cpp does with torch.
struct Rows final : carafe::Host {
  Rows(const Problem& problem, const char* name, void* stats, int64_t multiprocessors)
      : Host(nullptr, multiprocessors), problem(problem), name(name), stats(stats) {}

  Problem in_rows(const Problem& problem) override {
    Problem p = problem;
    p.features = place(features, p.features, p.in_h, p.in_w, std::strcmp(name, "scatter") == 0);
    const int64_t height = p.cells_h * p.phases, width = p.cells_w * p.phases;
    p.output = place(output, p.output, height, width, std::strcmp(name, "reassemble") == 0);
    return p;
  }

  void finish() override {
    if (written.data != nullptr)
      copy(written, dense);
  }

  void* scratch(int64_t) override { return stats; }

private:
  TensorView place(std::vector<char>& memory, const TensorView& view, int64_t h, int64_t w, bool is_written) {
    TensorView rows{{nullptr, view.dtype}, {problem.channels * h * w, h * w, w, 1}};
    const size_t bytes = problem.batch * rows.stride[0] * element(view);
    memory.assign(bytes, char(0xff)); // NaN
    rows.data = memory.data();
    emulator_tensor(rows.data, bytes);
    height = h, width = w;
    if (is_written)
      written = view, dense = rows, written_height = h, written_width = w;
    else
      copy(rows, view);
    return rows;
  }

  void copy(const TensorView& to, const TensorView& from) {
    const bool back = written.data != nullptr && to.data == written.data;
    const int64_t h = back ? written_height : height, w = back ? written_width : width;
    const auto at = [](const TensorView& view, int64_t n, int64_t c, int64_t y, int64_t x) {
      const int64_t* stride = view.stride;
      return static_cast<char*>(view.data) +
          (n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3]) * element(view);
    };
    for (int64_t n = 0; n < problem.batch; ++n)
      for (int64_t c = 0; c < problem.channels; ++c)
        for (int64_t y = 0; y < h; ++y)
          for (int64_t x = 0; x < w; ++x)
            std::memcpy(at(to, n, c, y, x), at(from, n, c, y, x), element(to));
  }

  static int64_t element(const TensorView& view) {
    return view.dtype == carafe::Dtype::kFloat ? 4 : view.dtype == carafe::Dtype::kDouble ? 8 : 2;
  }

  const Problem& problem;
  const char* name;
  void* stats;
  std::vector<char> features, output;
  TensorView written, dense;
  int64_t height, width, written_height, written_width;
};

} // namespace

extern "C" const char* emulator_run(
    const char* name, // reassemble, correlate or scatter, or a family of its kernels
    const TensorView* features,
    const TensorView* output,
    const TensorView* masks, // null where the operator has none
    const TensorView* grad_masks,
    const int64_t* sizes, // N, C, H, W, k, G, s, down, softmax, wide, multiprocessors
    void* stats) {
  const carafe::Sizes call{sizes[0], sizes[1], sizes[2], sizes[3],
                           sizes[4], sizes[5], sizes[6], sizes[7] != 0};
  Problem p = carafe::make_problem(call, sizes[8], sizes[9]);
  p.features = *features, p.output = *output;
  if (masks != nullptr)
    p.masks = carafe::mask_view(*masks, p);
  if (grad_masks != nullptr)
    p.grad_masks = carafe::mask_view(*grad_masks, p);

  const struct {
    const char* name;
    Launched (*run)(const Problem&, carafe::Host&);
  } runs[] = {
#define CARAFE_RUN(function) {#function, carafe::function}
      CARAFE_RUN(reassemble),         CARAFE_RUN(correlate),         CARAFE_RUN(scatter),
      CARAFE_RUN(reassemble_generic), CARAFE_RUN(correlate_generic), CARAFE_RUN(scatter_generic),
      CARAFE_RUN(reassemble_planar),  CARAFE_RUN(correlate_planar),  CARAFE_RUN(scatter_planar),
      CARAFE_RUN(reassemble_last),    CARAFE_RUN(correlate_last),    CARAFE_RUN(scatter_last),
      CARAFE_RUN(reassemble_tensor),
  };
  Rows rows(p, name, stats, sizes[10]);
  for (const auto& run : runs)
    if (std::strcmp(run.name, name) == 0) {
      const Launched launched = run.run(p, rows);
      return launched.kernel == nullptr ? "" : launched.kernel;
    }
  return "no such operator";
}

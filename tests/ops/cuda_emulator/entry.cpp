// SPDX-License-Identifier: Apache-2.0
// One C function for ctypes: an operator of ops/cuda on tensors given by
// address, dtype and strides.
#include <cstring>

#include "../../../ops/cuda/problem.h"

using carafe::Launched;
using carafe::Problem;
using carafe::TensorView;

extern "C" const char* emulator_run(
    const char* name, // reassemble, correlate or scatter, or a family of its kernels
    const TensorView* features,
    const TensorView* output,
    const TensorView* masks, // null where the operator has none
    const TensorView* grad_masks,
    const int64_t* sizes, // N, C, H, W, k, G, s, down, softmax, wide, multiprocessors
    void* stats) {
  Problem p{};
  p.batch = sizes[0], p.channels = sizes[1], p.in_h = sizes[2], p.in_w = sizes[3];
  p.kernel_size = sizes[4], p.groups = sizes[5];
  const bool down = sizes[7];
  p.phases = down ? carafe::phases<carafe::Map::kDown>(sizes[6]) : carafe::phases<carafe::Map::kUp>(sizes[6]);
  p.step = down ? carafe::centre_step<carafe::Map::kDown>(sizes[6])
                : carafe::centre_step<carafe::Map::kUp>(sizes[6]);
  p.cells_h = carafe::ceil_div(p.in_h, p.step), p.cells_w = carafe::ceil_div(p.in_w, p.step);
  p.softmax = sizes[8], p.wide = sizes[9], p.multiprocessors = sizes[10];
  p.features = *features, p.output = *output;
  const int64_t entries = p.kernel_size * p.kernel_size;
  if (masks != nullptr)
    p.weights = carafe::weight_view(*masks, p.softmax, entries, p.phases);
  if (grad_masks != nullptr)
    p.grad_weights = carafe::weight_view(*grad_masks, p.softmax, entries, p.phases);
  p.stats = stats;

  const struct {
    const char* name;
    Launched (*run)(const Problem&, void*);
  } runs[] = {
#define CARAFE_RUN(function) {#function, carafe::function}
      CARAFE_RUN(reassemble),         CARAFE_RUN(correlate),         CARAFE_RUN(scatter),
      CARAFE_RUN(reassemble_generic), CARAFE_RUN(correlate_generic), CARAFE_RUN(scatter_generic),
      CARAFE_RUN(reassemble_planar),  CARAFE_RUN(correlate_planar),  CARAFE_RUN(scatter_planar),
      CARAFE_RUN(reassemble_last),    CARAFE_RUN(correlate_last),    CARAFE_RUN(scatter_last),
      CARAFE_RUN(reassemble_tensor),
  };
  for (const auto& run : runs)
    if (std::strcmp(run.name, name) == 0) {
      const Launched launched = run.run(p, nullptr);
      return launched.kernel == nullptr ? "" : launched.kernel;
    }
  return "no such operator";
}

// SPDX-License-Identifier: Apache-2.0
// The CUDA device: calls become Problems, and launches on torch's current stream.
#include "../host.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>

#include <cuda_runtime_api.h>

#include <optional>
#include <string>

#include "problem.h"

namespace carafe {
namespace {

using torch::headeronly::ScalarType;

Problem make_problem(const Call& call) {
  Problem p = describe<Problem>(call);
  p.wide = call.wide;
  return p;
}

WeightView weights(const TensorView& view, const Problem& p) {
  return weight_view(view, p.softmax, p.kernel_size * p.kernel_size, p.phases);
}

// On the device of the tensors and torch's current stream there.
void run(Launched (*op)(const Problem&, void*), Problem& p, const Tensor& tensor) {
  const int32_t index = tensor.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  int multiprocessors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index));
  p.multiprocessors = multiprocessors;
  STD_CUDA_CHECK(static_cast<cudaError_t>(op(p, stream).error));
}

} // namespace

void device::allocated(const Tensor&) {}

void device::reassemble(const Call& call) {
  Problem p = make_problem(call);
  p.features = view(*call.features);
  p.weights = weights(view(*call.masks), p);
  p.output = mutable_view(*call.output);
  run(carafe::reassemble, p, *call.features);
}

void device::correlate(const Call& call) {
  Problem p = make_problem(call);
  p.features = view(*call.features);
  p.output = view(*call.output);
  if (call.softmax)
    p.weights = weights(view(*call.masks), p);
  p.grad_weights = weights(mutable_view(*call.grad_masks), p);
  run(carafe::correlate, p, *call.features);
}

void device::scatter(const Call& call) {
  Problem p = make_problem(call);
  p.features = mutable_view(*call.features);
  p.output = view(*call.output);
  p.weights = weights(view(*call.masks), p);
  std::optional<Tensor> stats;
  if (p.softmax) {
    const int64_t size[] = {p.stats_bytes() / int64_t(p.wide ? sizeof(double) : sizeof(float))};
    stats = torch::stable::empty(
        {size, 1}, p.wide ? ScalarType::Double : ScalarType::Float, std::nullopt, call.features->device());
    p.stats = stats->mutable_data_ptr();
  }
  run(carafe::scatter, p, *call.features);
}

} // namespace carafe

// SPDX-License-Identifier: Apache-2.0
// The CUDA device: calls become Problems, and launches on torch's current stream.
#include "../host.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime_api.h>

#include <optional>

#include "problem.h"

namespace carafe {
namespace {

Problem make_problem(const Call& call) {
  Problem p = describe<Problem>(call);
  p.wide = call.wide;
  return p;
}

WeightView weights(const TensorView& view, const Problem& p) {
  return weight_view(view, p.softmax, p.kernel_size * p.kernel_size, p.phases);
}

// `Written` of a call is its result: features, output, or neither.
enum class Written { kFeatures, kOutput, kNeither };

class TorchHost final : public Host {
public:
  TorchHost(const Call& call, Written written) : call_(call), written_(written) {}

  Problem in_rows(const Problem& problem) override {
    Problem p = problem;
    p.features = place(features_, *call_.features, written_ == Written::kFeatures);
    p.output = place(output_, *call_.output, written_ == Written::kOutput);
    return p;
  }

  void finish() override {
    if (written_ != Written::kNeither) {
      Tensor result = written_ == Written::kFeatures ? *call_.features : *call_.output;
      torch::stable::copy_(result, *(written_ == Written::kFeatures ? features_ : output_));
    }
  }

  void* scratch(int64_t bytes) override {
    scratch_ = empty({&bytes, 1}, ScalarType::Byte);
    return scratch_->mutable_data_ptr();
  }

private:
  Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype) const {
    return torch::stable::empty(size, dtype, std::nullopt, call_.features->device());
  }

  TensorView place(std::optional<Tensor>& copy, const Tensor& tensor, bool written) const {
    const int64_t size[] = {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
    copy = written ? empty({size, 4}, tensor.scalar_type()) : torch::stable::contiguous(tensor);
    return written ? mutable_view(*copy) : view(*copy);
  }

  const Call& call_;
  const Written written_;
  std::optional<Tensor> features_, output_, scratch_;
};

// On the device of the tensors and torch's current stream there.
void run(Launched (*op)(const Problem&, void*, Host&), Problem& p, const Call& call, Written written) {
  const int32_t index = device_index(*call.features);
  const torch::stable::accelerator::DeviceGuard guard(index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  int multiprocessors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index));
  p.multiprocessors = multiprocessors;
  TorchHost host(call, written);
  STD_CUDA_CHECK(static_cast<cudaError_t>(op(p, stream, host).error));
}

} // namespace

void device::allocated(const Tensor&) {}

void device::reassemble(const Call& call) {
  Problem p = make_problem(call);
  p.features = view(*call.features);
  p.weights = weights(view(*call.masks), p);
  p.output = mutable_view(*call.output);
  run(carafe::reassemble, p, call, Written::kOutput);
}

void device::correlate(const Call& call) {
  Problem p = make_problem(call);
  p.features = view(*call.features);
  p.output = view(*call.output);
  if (call.softmax)
    p.weights = weights(view(*call.masks), p);
  p.grad_weights = weights(mutable_view(*call.grad_masks), p);
  run(carafe::correlate, p, call, Written::kNeither);
}

void device::scatter(const Call& call) {
  Problem p = make_problem(call);
  p.features = mutable_view(*call.features);
  p.output = view(*call.output);
  p.weights = weights(view(*call.masks), p);
  run(carafe::scatter, p, call, Written::kFeatures);
}

} // namespace carafe

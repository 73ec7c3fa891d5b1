// SPDX-License-Identifier: Apache-2.0
// The CUDA device: launches on torch's current stream.
#include "../host.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime_api.h>

#include <optional>

#include "kernels.h"

namespace carafe {
namespace {

// Which of the two tensors is the result.
enum class Written { kFeatures, kOutput, kNeither };

class TorchHost final : public Host {
public:
  TorchHost(
      void* stream, int64_t multiprocessors, const Tensor& features, const Tensor& output, Written written)
      : Host(stream, multiprocessors), features_(features), output_(output), written_(written) {}

  Problem in_rows(const Problem& problem) override {
    Problem p = problem;
    p.features = place(feature_rows_, features_, written_ == Written::kFeatures);
    p.output = place(output_rows_, output_, written_ == Written::kOutput);
    return p;
  }

  void finish() override {
    if (written_ != Written::kNeither) {
      Tensor result = written_ == Written::kFeatures ? features_ : output_;
      torch::stable::copy_(result, *(written_ == Written::kFeatures ? feature_rows_ : output_rows_));
    }
  }

  void* scratch(int64_t bytes) override {
    scratch_ = empty({&bytes, 1}, ScalarType::Byte);
    return scratch_->mutable_data_ptr();
  }

private:
  Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef size, ScalarType dtype) const {
    return torch::stable::empty(size, dtype, std::nullopt, features_.device());
  }

  TensorView place(std::optional<Tensor>& copy, const Tensor& tensor, bool written) const {
    const int64_t size[] = {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)};
    copy = written ? empty({size, 4}, tensor.scalar_type()) : torch::stable::contiguous(tensor);
    return written ? mutable_view(*copy) : view(*copy);
  }

  const Tensor& features_;
  const Tensor& output_;
  const Written written_;
  std::optional<Tensor> feature_rows_, output_rows_, scratch_;
};

// On the device of the tensors and torch's current stream there.
void run(
    Launched (*op)(const Problem&, Host&),
    const Problem& p,
    const Tensor& features,
    const Tensor& output,
    Written written) {
  const int32_t index = device_index(features);
  const torch::stable::accelerator::DeviceGuard guard(index);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  int multiprocessors = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index));
  TorchHost host(stream, multiprocessors, features, output, written);
  STD_CUDA_CHECK(static_cast<cudaError_t>(op(p, host).error));
}

} // namespace

void device::allocated(const Tensor&) {}

void device::reassemble(const Problem& p, const Tensor& features, const Tensor& output) {
  run(carafe::reassemble, p, features, output, Written::kOutput);
}

void device::correlate(const Problem& p, const Tensor& features, const Tensor& output) {
  run(carafe::correlate, p, features, output, Written::kNeither);
}

void device::scatter(const Problem& p, const Tensor& features, const Tensor& output) {
  run(carafe::scatter, p, features, output, Written::kFeatures);
}

} // namespace carafe

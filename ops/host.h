// SPDX-License-Identifier: Apache-2.0
// What the two libraries, CPU and CUDA, share on the host. host.cpp has the
// operators' entries: checks, outputs, early return on empty; it is compiled
// into both. Each library defines the functions of namespace `device`.
#pragma once

#include "binding.h"
#include "problem.h"

namespace carafe {

// The tensor's data and strides; `mutable_view` is for what a kernel writes.
TensorView view(const Tensor& tensor);
TensorView mutable_view(const Tensor& tensor);

// Called with a problem that is not empty. The tensors are those of its views,
// for a device that has to copy them.
namespace device {

void allocated(const Tensor& result); // called with every result
void reassemble(const Problem& problem, const Tensor& features, const Tensor& output);
void correlate(const Problem& problem, const Tensor& features, const Tensor& output);
void scatter(const Problem& problem, const Tensor& features, const Tensor& output);

} // namespace device
} // namespace carafe

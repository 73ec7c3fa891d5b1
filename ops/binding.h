// SPDX-License-Identifier: Apache-2.0
// All that the hosts call of torch, in two implementations of one face:
//   the stable ABI: one library for every torch from 2.10 on;
//   ATen (CARAFE_ATEN): torch 2.1 to 2.9, for the very version compiled with.
// CPU only in the latter. `key` below may itself be a macro. What both spell alike, such as Tensor's size(),
// stride() and data pointers, the hosts call directly.
#pragma once

#include <cstdint>
#include <optional>

#if defined(CARAFE_ATEN)

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>
#include <torch/csrc/api/include/torch/version.h>

#define CARAFE_CHECK(...) TORCH_CHECK(__VA_ARGS__)
#define CARAFE_LIBRARY(m) TORCH_LIBRARY(carafe_plugin, m)
#define CARAFE_LIBRARY_IMPL(key, m) TORCH_LIBRARY_IMPL(carafe_plugin, key, m)
#define CARAFE_KERNEL(function) function

namespace carafe {

using at::ScalarType;
using at::Tensor;
using at::get_num_threads;
using at::parallel_for;

// What an operator's schema calls `T?`.
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 4
template <typename T>
using Optional = c10::optional<T>;
#else
template <typename T>
using Optional = std::optional<T>;
#endif

// Uninitialised, on the device of `like`.
inline Tensor empty(const int64_t (&sizes)[4], ScalarType dtype, const Tensor& like, bool channels_last) {
  return at::empty(
      sizes, at::TensorOptions(dtype).device(like.device()),
      channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

inline int32_t device_index(const Tensor& tensor) { return tensor.get_device(); }

} // namespace carafe

#else

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define CARAFE_CHECK(...) STD_TORCH_CHECK(__VA_ARGS__)
#define CARAFE_LIBRARY(m) STABLE_TORCH_LIBRARY(carafe_plugin, m)
#define CARAFE_LIBRARY_IMPL(key, m) STABLE_TORCH_LIBRARY_IMPL(carafe_plugin, key, m)
#define CARAFE_KERNEL(function) TORCH_BOX(function)

namespace carafe {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::get_num_threads;
using torch::stable::parallel_for;

template <typename T>
using Optional = std::optional<T>;

// Uninitialised, on the device of `like`.
inline Tensor empty(const int64_t (&sizes)[4], ScalarType dtype, const Tensor& like, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::empty(
      {sizes, 4}, dtype, std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

inline int32_t device_index(const Tensor& tensor) { return tensor.get_device_index(); }

} // namespace carafe

#endif

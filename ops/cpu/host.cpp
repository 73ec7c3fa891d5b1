// SPDX-License-Identifier: Apache-2.0
// The CPU entries: checks, outputs, early return on empty, dispatch. The checks
// speak the words of carafe_plugin/ops/carafe.py, which runs them first; they
// matter to who calls torch.ops directly.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdlib>
#include <optional>
#include <string>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "params.h"

namespace {

using carafe::Dtype;
using carafe::Map;
using carafe::Params;
using carafe::TensorView;
using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i)
    text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double ||
      dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
}

void check_integers(int64_t kernel_size, int64_t group_size, int64_t scale_factor) {
  STD_TORCH_CHECK(kernel_size >= 1, "kernel_size must be at least 1, got ", kernel_size);
  STD_TORCH_CHECK(group_size >= 1, "group_size must be at least 1, got ", group_size);
  STD_TORCH_CHECK(scale_factor >= 1, "scale_factor must be at least 1, got ", scale_factor);
  STD_TORCH_CHECK(kernel_size % 2 == 1, "kernel_size must be odd, got ", kernel_size);
  // Far beyond use, and it keeps every count below 2^63.
  STD_TORCH_CHECK(
      kernel_size <= 1023 && scale_factor <= 1023,
      "kernel_size and scale_factor must be at most 1023, got ", kernel_size, " and ", scale_factor);
}

void check_tensor(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(is_supported(tensor.scalar_type()), name, " must be floating-point (16, 32 or 64 bits)");
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must have 4 dimensions, got shape ", shape_text(tensor));
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU, like the other tensor");
}

void check_groups(int64_t channels, int64_t group_size) {
  STD_TORCH_CHECK(
      channels % group_size == 0,
      "the channels of features must be divisible by group_size=", group_size, ", got ", channels);
}

// Sizes, and what shapes follow from them.
struct Sizes {
  int64_t batch, channels, in_h, in_w, kernel_size, group_size, scale_factor;
  bool down;

  int64_t phases() const {
    return down ? carafe::phases<Map::kDown>(scale_factor) : carafe::phases<Map::kUp>(scale_factor);
  }
  int64_t cells(int64_t size) const {
    return down ? carafe::cells<Map::kDown>(size, scale_factor)
                : carafe::cells<Map::kUp>(size, scale_factor);
  }
  int64_t out_h() const { return cells(in_h) * phases(); }
  int64_t out_w() const { return cells(in_w) * phases(); }
  int64_t mask_channels() const { return group_size * kernel_size * kernel_size; }
  int64_t logit_channels() const { return mask_channels() * phases() * phases(); }
};

void check_shape(
    const Tensor& tensor,
    const char* name,
    const char* formula,
    int64_t batch,
    int64_t channels,
    int64_t height,
    int64_t width) {
  STD_TORCH_CHECK(
      tensor.size(0) == batch && tensor.size(1) == channels &&
          tensor.size(2) == height && tensor.size(3) == width,
      name, " must have shape ", formula, " = (", batch, ", ", channels, ", ",
      height, ", ", width, "), got ", shape_text(tensor));
}

// As at::Tensor::suggest_memory_format, which the stable ABI leaves out: the
// layout the strides say, contiguous where they say both.
bool is_channels_last(const Tensor& tensor) {
  if (tensor.stride(1) == 0)
    return false;
  int64_t least = 0;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (tensor.size(d) == 0 || tensor.stride(d) < least)
      return false;
    if (d == 0 && least == tensor.stride(1))
      return false;
    least = tensor.stride(d);
    if (tensor.size(d) > 1)
      least *= tensor.size(d);
  }
  return true;
}

// From 32 MiB on malloc maps fresh pages for every call, and touching them one
// by one costs more than the operator: ask for large ones. CARAFE_HUGEPAGES=0
// switches it off. A hint only: what it answers does not matter.
void advise_large_pages(const Tensor& tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t size = size_t(tensor.numel()) * tensor.element_size();
  const char* wish = std::getenv("CARAFE_HUGEPAGES");
  if (size < (size_t(32) << 20) || (wish != nullptr && wish[0] == '0'))
    return;
  const uintptr_t page = 4096, begin = uintptr_t(tensor.mutable_data_ptr());
  const uintptr_t first = (begin + page - 1) / page * page;
  madvise((void*)first, (begin + size - first) / page * page, MADV_HUGEPAGE);
#else
  (void)tensor;
#endif
}

// An uninitialised tensor, in the layout and dtype of `like` unless said.
Tensor empty(
    int64_t batch,
    int64_t channels,
    int64_t height,
    int64_t width,
    const Tensor& like,
    std::optional<ScalarType> dtype = std::nullopt) {
  const int64_t sizes[] = {batch, channels, height, width};
  Tensor tensor = torch::stable::empty(
      {sizes, 4},
      dtype.value_or(like.scalar_type()),
      std::nullopt,
      like.device(),
      std::nullopt,
      is_channels_last(like) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  advise_large_pages(tensor);
  return tensor;
}

TensorView view(const Tensor& tensor, const void* data) {
  TensorView result;
  result.data = const_cast<void*>(data);
  for (int d = 0; d < 4; ++d)
    result.stride[d] = tensor.stride(d);
  const ScalarType dtype = tensor.scalar_type();
  result.dtype = dtype == ScalarType::Double ? Dtype::kDouble
      : dtype == ScalarType::Half            ? Dtype::kHalf
      : dtype == ScalarType::BFloat16        ? Dtype::kBFloat16
                                             : Dtype::kFloat;
  return result;
}

TensorView input(const Tensor& tensor) { return view(tensor, tensor.const_data_ptr()); }
TensorView result(const Tensor& tensor) { return view(tensor, tensor.mutable_data_ptr()); }

Params make_params(const Sizes& sizes, bool softmax) {
  Params p{};
  p.batch = sizes.batch;
  p.channels = sizes.channels;
  p.groups = sizes.group_size;
  p.in_h = sizes.in_h;
  p.in_w = sizes.in_w;
  p.cells_h = sizes.cells(sizes.in_h);
  p.cells_w = sizes.cells(sizes.in_w);
  p.kernel_size = sizes.kernel_size;
  p.phases = sizes.phases();
  p.step = sizes.down ? carafe::centre_step<Map::kDown>(sizes.scale_factor)
                      : carafe::centre_step<Map::kUp>(sizes.scale_factor);
  p.softmax = softmax;
  return p;
}

bool is_double(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == ScalarType::Double || b.scalar_type() == ScalarType::Double;
}

void run(const carafe::Operator& op, Params& p) {
  op.plan(p, torch::stable::get_num_threads());
  // Below about 100 us of work a second thread costs more than it gives.
  const int64_t grain = (2 << 20) / (p.item_work > 0 ? p.item_work : 1) + 1;
  std::atomic<bool> out_of_memory{false};
  torch::stable::parallel_for(0, p.items, grain, [&](int64_t begin, int64_t end) {
    // No exception may leave this function: its text would be lost.
    void* scratch = std::aligned_alloc(64, (p.scratch_bytes + 63) / 64 * 64);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    op.run(p, begin, end, scratch);
    std::free(scratch);
  });
  STD_TORCH_CHECK(!out_of_memory, "out of memory: ", p.scratch_bytes, " bytes of scratch a thread");
}

// Sizes given by features and masks (or logits), checked.
Sizes forward_sizes(
    const Tensor& features,
    const Tensor& masks,
    bool softmax,
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down) {
  const char* name = softmax ? "logits" : "masks";
  check_integers(kernel_size, group_size, scale_factor);
  check_tensor(features, "features");
  check_tensor(masks, name);
  check_groups(features.size(1), group_size);
  const Sizes sizes{
      features.size(0), features.size(1), features.size(2), features.size(3),
      kernel_size, group_size, scale_factor, down};
  if (softmax)
    check_shape(
        masks, name, down ? "(N, G*k*k, ceil(H/s), ceil(W/s))" : "(N, G*k*k*s*s, H, W)",
        sizes.batch, sizes.logit_channels(), sizes.cells(sizes.in_h), sizes.cells(sizes.in_w));
  else
    check_shape(
        masks, name, down ? "(N, G*k*k, ceil(H/s), ceil(W/s))" : "(N, G*k*k, s*H, s*W)",
        sizes.batch, sizes.mask_channels(), sizes.out_h(), sizes.out_w());
  return sizes;
}

void check_output(const Tensor& output, const char* name, const Sizes& sizes) {
  check_tensor(output, name);
  check_shape(
      output, name, sizes.down ? "(N, C, ceil(H/s), ceil(W/s))" : "(N, C, s*H, s*W)",
      sizes.batch, sizes.channels, sizes.out_h(), sizes.out_w());
}

// A, from masks or logits.
Tensor forward(const Tensor& features, const Tensor& masks, bool softmax, const Sizes& sizes) {
  Tensor output = empty(sizes.batch, sizes.channels, sizes.out_h(), sizes.out_w(), features);
  if (output.numel() == 0)
    return output;
  Params p = make_params(sizes, softmax);
  p.features = input(features);
  p.masks = input(masks);
  p.output = result(output);
  run(carafe::kernels().reassemble[is_double(features, masks)], p);
  return output;
}

Tensor reassemble(
    const Tensor& features, // [N, C, H, W]
    const Tensor& masks, // [N, G*k*k, H', W']
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down) {
  return forward(
      features, masks, false,
      forward_sizes(features, masks, false, kernel_size, group_size, scale_factor, down));
}

Tensor reassemble_softmax(
    const Tensor& features, // [N, C, H, W]
    const Tensor& logits, // [N, G*k*k*s*s, H, W]
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down) {
  return forward(
      features, logits, true,
      forward_sizes(features, logits, true, kernel_size, group_size, scale_factor, down));
}

// B into `grad_masks`; with `logits`, on to their gradient.
void correlate_into(
    Tensor& grad_masks,
    const Tensor& output,
    const Tensor& features,
    const Tensor* logits,
    const Sizes& sizes) {
  if (grad_masks.numel() == 0)
    return;
  Params p = make_params(sizes, logits != nullptr);
  p.features = input(features);
  p.output = input(output);
  if (logits != nullptr)
    p.masks = input(*logits);
  p.grad_masks = result(grad_masks);
  const bool wide = is_double(output, features) || is_double(grad_masks, features);
  run(carafe::kernels().correlate[wide], p);
}

// C.
Tensor scatter_from(const Tensor& output, const Tensor& masks, bool softmax, const Sizes& sizes) {
  Tensor features = empty(sizes.batch, sizes.channels, sizes.in_h, sizes.in_w, output);
  if (features.numel() == 0)
    return features;
  Params p = make_params(sizes, softmax);
  p.features = result(features);
  p.output = input(output);
  p.masks = input(masks);
  run(carafe::kernels().scatter[is_double(output, masks)], p);
  return features;
}

Tensor correlate(
    const Tensor& output, // [N, C, H', W']
    const Tensor& features, // [N, C, H, W]
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down,
    std::optional<ScalarType> dtype) {
  check_integers(kernel_size, group_size, scale_factor);
  check_tensor(features, "features");
  check_groups(features.size(1), group_size);
  const Sizes sizes{
      features.size(0), features.size(1), features.size(2), features.size(3),
      kernel_size, group_size, scale_factor, down};
  check_output(output, "output", sizes);
  const ScalarType to = dtype.value_or(output.scalar_type());
  STD_TORCH_CHECK(is_supported(to), "dtype must be floating-point (16, 32 or 64 bits)");
  Tensor masks = empty(
      sizes.batch, sizes.mask_channels(), sizes.out_h(), sizes.out_w(), output, to);
  correlate_into(masks, output, features, nullptr, sizes);
  return masks;
}

Tensor scatter(
    const Tensor& output, // [N, C, H', W']
    const Tensor& masks, // [N, G*k*k, H', W']
    int64_t height,
    int64_t width,
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down) {
  check_integers(kernel_size, group_size, scale_factor);
  check_tensor(output, "output");
  check_tensor(masks, "masks");
  check_groups(output.size(1), group_size);
  STD_TORCH_CHECK(
      height >= 0 && width >= 0, "height and width must not be negative, got ", height, " and ", width);
  const Sizes sizes{
      output.size(0), output.size(1), height, width,
      kernel_size, group_size, scale_factor, down};
  check_output(output, "output", sizes);
  check_shape(
      masks, "masks", down ? "(N, G*k*k, ceil(H/s), ceil(W/s))" : "(N, G*k*k, s*H, s*W)",
      sizes.batch, sizes.mask_channels(), sizes.out_h(), sizes.out_w());
  return scatter_from(output, masks, false, sizes);
}

std::tuple<Tensor, Tensor> reassemble_softmax_backward(
    const Tensor& grad, // [N, C, H', W']
    const Tensor& features, // [N, C, H, W]
    const Tensor& logits, // [N, G*k*k*s*s, H, W]
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down) {
  const Sizes sizes =
      forward_sizes(features, logits, true, kernel_size, group_size, scale_factor, down);
  check_output(grad, "grad", sizes);
  Tensor grad_logits = empty(
      sizes.batch, sizes.logit_channels(), sizes.cells(sizes.in_h), sizes.cells(sizes.in_w), logits);
  correlate_into(grad_logits, grad, features, &logits, sizes);
  return {scatter_from(grad, logits, true, sizes), grad_logits};
}

std::string cpu_capability() { return carafe::kernels().isa; }

} // namespace

STABLE_TORCH_LIBRARY_IMPL(carafe_plugin, CPU, m) {
  m.impl("reassemble", TORCH_BOX(&reassemble));
  m.impl("correlate", TORCH_BOX(&correlate));
  m.impl("scatter", TORCH_BOX(&scatter));
  m.impl("reassemble_softmax", TORCH_BOX(&reassemble_softmax));
  m.impl("reassemble_softmax_backward", TORCH_BOX(&reassemble_softmax_backward));
}

STABLE_TORCH_LIBRARY_IMPL(carafe_plugin, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&cpu_capability));
}

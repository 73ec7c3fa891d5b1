// SPDX-License-Identifier: Apache-2.0
// The operators' entries, compiled into each library for its own dispatch key
// CARAFE_DISPATCH_KEY. The checks speak the words of carafe_plugin/ops/_checks.py,
// which runs them first; they matter to who calls torch.ops directly.
#include "host.h"

#include <optional>
#include <string>
#include <tuple>

#include "sizes.h"

namespace carafe {
namespace {

std::string shape_text(const Tensor& tensor) {
  std::string text = "(";
  for (int64_t i = 0; i < tensor.dim(); ++i)
    text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + ")";
}

bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
      dtype == ScalarType::BFloat16;
}

void check_integers(int64_t kernel_size, int64_t group_size, int64_t scale_factor) {
  CARAFE_CHECK(kernel_size >= 1, "kernel_size must be at least 1, got ", kernel_size);
  CARAFE_CHECK(group_size >= 1, "group_size must be at least 1, got ", group_size);
  CARAFE_CHECK(scale_factor >= 1, "scale_factor must be at least 1, got ", scale_factor);
  CARAFE_CHECK(kernel_size % 2 == 1, "kernel_size must be odd, got ", kernel_size);
  // Far beyond use, and it keeps every count below 2^63.
  CARAFE_CHECK(
      kernel_size <= 1023 && scale_factor <= 1023, "kernel_size and scale_factor must be at most 1023, got ",
      kernel_size, " and ", scale_factor);
}

void check_tensor(const Tensor& tensor, const char* name) {
  CARAFE_CHECK(is_supported(tensor.scalar_type()), name, " must be floating-point (16, 32 or 64 bits)");
  CARAFE_CHECK(tensor.dim() == 4, name, " must have 4 dimensions, got shape ", shape_text(tensor));
}

std::string device_text(const Tensor& tensor) {
  if (tensor.is_cpu())
    return "cpu";
  if (tensor.is_cuda())
    return "cuda:" + std::to_string(device_index(tensor));
  return "another device";
}

void check_devices(const Tensor& a, const char* a_name, const Tensor& b, const char* b_name) {
  const std::string a_text = device_text(a), b_text = device_text(b);
  CARAFE_CHECK(
      a_text == b_text, a_name, " and ", b_name, " must be on one device, got ", a_text, " and ", b_text);
}

void check_groups(int64_t channels, int64_t group_size) {
  CARAFE_CHECK(
      channels % group_size == 0, "the channels of features must be divisible by group_size=", group_size,
      ", got ", channels);
}

void check_shape(
    const Tensor& tensor,
    const char* name,
    const char* formula,
    int64_t batch,
    int64_t channels,
    int64_t height,
    int64_t width) {
  CARAFE_CHECK(
      tensor.size(0) == batch && tensor.size(1) == channels && tensor.size(2) == height &&
          tensor.size(3) == width,
      name, " must have shape ", formula, " = (", batch, ", ", channels, ", ", height, ", ", width, "), got ",
      shape_text(tensor));
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

// An uninitialised tensor, in the layout and dtype of `like` unless said.
Tensor empty_like(
    int64_t batch,
    int64_t channels,
    int64_t height,
    int64_t width,
    const Tensor& like,
    std::optional<ScalarType> dtype = std::nullopt) {
  Tensor tensor = empty(
      {batch, channels, height, width}, dtype.value_or(like.scalar_type()), like, is_channels_last(like));
  device::allocated(tensor);
  return tensor;
}

bool is_double(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == ScalarType::Double || b.scalar_type() == ScalarType::Double;
}

Sizes sizes_of(
    const Tensor& features, int64_t kernel_size, int64_t group_size, int64_t scale_factor, bool down) {
  return {features.size(0), features.size(1), features.size(2), features.size(3),
          kernel_size,      group_size,       scale_factor,     down};
}

void check_masks(const Tensor& masks, const Sizes& sizes) {
  check_shape(
      masks, "masks", sizes.down ? "(N, G*k*k, ceil(H/s), ceil(W/s))" : "(N, G*k*k, s*H, s*W)", sizes.batch,
      sizes.mask_channels(), sizes.out_h(), sizes.out_w());
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
  check_devices(features, "features", masks, name);
  check_groups(features.size(1), group_size);
  const Sizes sizes = sizes_of(features, kernel_size, group_size, scale_factor, down);
  if (softmax)
    check_shape(
        masks, name, down ? "(N, G*k*k, ceil(H/s), ceil(W/s))" : "(N, G*k*k*s*s, H, W)", sizes.batch,
        sizes.logit_channels(), sizes.cells(sizes.in_h), sizes.cells(sizes.in_w));
  else
    check_masks(masks, sizes);
  return sizes;
}

void check_output(const Tensor& output, const char* name, const Sizes& sizes) {
  check_tensor(output, name);
  check_shape(
      output, name, sizes.down ? "(N, C, ceil(H/s), ceil(W/s))" : "(N, C, s*H, s*W)", sizes.batch,
      sizes.channels, sizes.out_h(), sizes.out_w());
}

Dtype dtype_of(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return dtype == ScalarType::Double  ? Dtype::kDouble
      : dtype == ScalarType::Half     ? Dtype::kHalf
      : dtype == ScalarType::BFloat16 ? Dtype::kBFloat16
                                      : Dtype::kFloat;
}

TensorView make_view(const Tensor& tensor, void* data) {
  TensorView view{{data, dtype_of(tensor)}, {}};
  for (int d = 0; d < 4; ++d)
    view.stride[d] = tensor.stride(d);
  return view;
}

// A, from masks or logits.
Tensor forward(const Tensor& features, const Tensor& masks, bool softmax, const Sizes& sizes) {
  Tensor output = empty_like(sizes.batch, sizes.channels, sizes.out_h(), sizes.out_w(), features);
  if (output.numel() == 0)
    return output;
  Problem p = make_problem(sizes, softmax, is_double(features, masks));
  p.features = view(features);
  p.masks = mask_view(view(masks), p);
  p.output = mutable_view(output);
  device::reassemble(p, features, output);
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
    const Tensor& grad_masks,
    const Tensor& output,
    const Tensor& features,
    const Tensor* logits,
    const Sizes& sizes) {
  if (grad_masks.numel() == 0)
    return;
  const bool wide = is_double(output, features) || is_double(grad_masks, features);
  Problem p = make_problem(sizes, logits != nullptr, wide);
  p.features = view(features);
  p.output = view(output);
  if (logits != nullptr)
    p.masks = mask_view(view(*logits), p);
  p.grad_masks = mask_view(mutable_view(grad_masks), p);
  device::correlate(p, features, output);
}

// C.
Tensor scatter_from(const Tensor& output, const Tensor& masks, bool softmax, const Sizes& sizes) {
  Tensor features = empty_like(sizes.batch, sizes.channels, sizes.in_h, sizes.in_w, output);
  if (features.numel() == 0)
    return features;
  Problem p = make_problem(sizes, softmax, is_double(output, masks));
  p.features = mutable_view(features);
  p.output = view(output);
  p.masks = mask_view(view(masks), p);
  device::scatter(p, features, output);
  return features;
}

Tensor correlate(
    const Tensor& output, // [N, C, H', W']
    const Tensor& features, // [N, C, H, W]
    int64_t kernel_size,
    int64_t group_size,
    int64_t scale_factor,
    bool down,
    Optional<ScalarType> dtype) {
  check_integers(kernel_size, group_size, scale_factor);
  check_tensor(features, "features");
  check_groups(features.size(1), group_size);
  const Sizes sizes = sizes_of(features, kernel_size, group_size, scale_factor, down);
  check_output(output, "output", sizes);
  check_devices(features, "features", output, "output");
  const ScalarType to = dtype.value_or(output.scalar_type());
  CARAFE_CHECK(is_supported(to), "dtype must be floating-point (16, 32 or 64 bits)");
  Tensor masks = empty_like(sizes.batch, sizes.mask_channels(), sizes.out_h(), sizes.out_w(), output, to);
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
  check_devices(output, "output", masks, "masks");
  check_groups(output.size(1), group_size);
  CARAFE_CHECK(
      height >= 0 && width >= 0, "height and width must not be negative, got ", height, " and ", width);
  const Sizes sizes{output.size(0), output.size(1), height,       width,
                    kernel_size,    group_size,     scale_factor, down};
  check_output(output, "output", sizes);
  check_masks(masks, sizes);
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
  const Sizes sizes = forward_sizes(features, logits, true, kernel_size, group_size, scale_factor, down);
  check_output(grad, "grad", sizes);
  check_devices(features, "features", grad, "grad");
  Tensor grad_logits = empty_like(
      sizes.batch, sizes.logit_channels(), sizes.cells(sizes.in_h), sizes.cells(sizes.in_w), logits);
  correlate_into(grad_logits, grad, features, &logits, sizes);
  return {scatter_from(grad, logits, true, sizes), grad_logits};
}

} // namespace

TensorView view(const Tensor& tensor) {
  return make_view(tensor, const_cast<void*>(tensor.const_data_ptr()));
}

TensorView mutable_view(const Tensor& tensor) { return make_view(tensor, tensor.mutable_data_ptr()); }

} // namespace carafe

CARAFE_LIBRARY_IMPL(CARAFE_DISPATCH_KEY, m) {
  m.impl("reassemble", CARAFE_KERNEL(&carafe::reassemble));
  m.impl("correlate", CARAFE_KERNEL(&carafe::correlate));
  m.impl("scatter", CARAFE_KERNEL(&carafe::scatter));
  m.impl("reassemble_softmax", CARAFE_KERNEL(&carafe::reassemble_softmax));
  m.impl("reassemble_softmax_backward", CARAFE_KERNEL(&carafe::reassemble_softmax_backward));
}

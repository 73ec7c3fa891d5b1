// SPDX-License-Identifier: Apache-2.0
// The operators as an extension of OpenVINO, for Core::add_extension: the kernels of the CPU library on
// OpenVINO's threads, without torch. The checks speak the words of carafe_plugin/ops/_checks.py.
#include <openvino/core/op_extension.hpp>
#include <openvino/core/parallel.hpp>
#include <openvino/frontend/onnx/extension/op.hpp>
#include <openvino/op/op.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "../sizes.h"
#include "kernels.h"

namespace carafe {
namespace {

enum Kind { kReassemble, kReassembleSoftmax, kCorrelate };

// The operators as ONNX nodes and OpenVINO's own files name them, their tensors, and their domain there.
constexpr const char* kNames[] = {"reassemble", "reassemble_softmax", "correlate"};
constexpr const char* kTensors[][2] = {{"features", "masks"}, {"features", "logits"}, {"output", "features"}};
constexpr const char* kDomain = "carafe_plugin";

// Multiply-adds, as in host.cpp: below that a second thread costs more than it gives.
constexpr int64_t kThreadWork = 2 << 20;

void run(const Kernel& kernel, const Problem& p) {
  const int64_t threads = parallel_get_max_threads(); // inside a node: those of its stream
  const Plan plan = kernel.plan(p, threads);
  const int64_t grain = kThreadWork / (plan.item_work > 0 ? plan.item_work : 1) + 1;
  std::atomic<bool> out_of_memory{false};
  ov::parallel_nt(int(std::min(threads, ceil_div(plan.items, grain))), [&](int part, int parts) {
    void* scratch = std::aligned_alloc(
        kCacheLine, (plan.scratch_bytes + kCacheLine - 1) / kCacheLine * kCacheLine);
    if (scratch == nullptr) {
      out_of_memory = true;
      return;
    }
    kernel.run(p, plan, plan.items * part / parts, plan.items * (part + 1) / parts, scratch);
    std::free(scratch);
  });
  OPENVINO_ASSERT(!out_of_memory, "out of memory: ", plan.scratch_bytes, " bytes of scratch a thread");
}

bool is_supported(const ov::element::Type& type) {
  return type == ov::element::f32 || type == ov::element::f64 || type == ov::element::f16 ||
      type == ov::element::bf16;
}

TensorView view(const ov::Tensor& tensor) {
  const ov::element::Type type = tensor.get_element_type();
  const Dtype dtype = type == ov::element::f64 ? Dtype::kDouble
      : type == ov::element::f16               ? Dtype::kHalf
      : type == ov::element::bf16              ? Dtype::kBFloat16
                                               : Dtype::kFloat;
  TensorView view{{const_cast<void*>(tensor.data()), dtype}, {}};
  const ov::Strides bytes = tensor.get_strides();
  for (size_t d = 0; d < 4; ++d)
    view.stride[d] = int64_t(bytes[d] / type.size());
  return view;
}

// Rounded up, at both ends of an interval; -1 is no end.
ov::Dimension divided(const ov::Dimension& size, int64_t divisor) {
  const int64_t most = size.get_max_length();
  return {ceil_div(size.get_min_length(), divisor), most < 0 ? most : ceil_div(most, divisor)};
}

// What the operators share. The result has the type of the first tensor.
class Operator : public ov::op::Op {
public:
  explicit Operator(Kind kind) : kind_(kind) {}

  bool visit_attributes(ov::AttributeVisitor& visitor) override {
    visitor.on_attribute("kernel_size", kernel_size_);
    visitor.on_attribute("group_size", group_size_);
    visitor.on_attribute("scale_factor", scale_factor_);
    visitor.on_attribute("down", down_);
    return true;
  }

  void validate_and_infer_types() override;
  bool has_evaluate() const override { return true; }
  bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override;

protected:
  std::shared_ptr<ov::Node> on(const ov::OutputVector& tensors, std::shared_ptr<Operator> fresh) const {
    check_new_args_count(this, tensors);
    fresh->kernel_size_ = kernel_size_;
    fresh->group_size_ = group_size_;
    fresh->scale_factor_ = scale_factor_;
    fresh->down_ = down_;
    fresh->set_arguments(tensors);
    fresh->constructor_validate_and_infer_types();
    return fresh;
  }

private:
  void check_attributes() const;
  ov::PartialShape result_shape(ov::PartialShape first, ov::PartialShape second) const;
  size_t features_at() const { return kind_ == kCorrelate; }

  Kind kind_;
  int64_t kernel_size_ = 0, group_size_ = 0, scale_factor_ = 0, down_ = 0;
};

void Operator::check_attributes() const {
  const auto at_least_1 = [this](const char* name, int64_t value) {
    NODE_VALIDATION_CHECK(this, value >= 1, name, " must be at least 1, got ", value);
  };
  at_least_1("kernel_size", kernel_size_);
  at_least_1("group_size", group_size_);
  at_least_1("scale_factor", scale_factor_);
  NODE_VALIDATION_CHECK(this, kernel_size_ % 2 == 1, "kernel_size must be odd, got ", kernel_size_);
  // Far beyond use, and it keeps every count below 2^63.
  NODE_VALIDATION_CHECK(
      this, kernel_size_ <= 1023 && scale_factor_ <= 1023,
      "kernel_size and scale_factor must be at most 1023, got ", kernel_size_, " and ", scale_factor_);
  NODE_VALIDATION_CHECK(
      this, group_size_ <= 1 << 20, "group_size must be at most 1048576, got ", group_size_);
  NODE_VALIDATION_CHECK(this, down_ == 0 || down_ == 1, "down must be 0 or 1, got ", down_);
}

// Refuses shapes that do not fit; sizes may be unknown.
ov::PartialShape Operator::result_shape(ov::PartialShape first, ov::PartialShape second) const {
  ov::PartialShape* shapes[] = {&first, &second};
  for (size_t i = 0; i < 2; ++i) {
    ov::PartialShape& shape = *shapes[i];
    NODE_VALIDATION_CHECK(
        this, shape.rank().compatible(4), kTensors[kind_][i], " must have 4 dimensions, got shape ", shape);
    if (shape.rank().is_dynamic())
      shape = ov::PartialShape::dynamic(4);
  }
  const ov::PartialShape& features = *shapes[features_at()];
  const ov::PartialShape& other = *shapes[!features_at()];
  const ov::Dimension& channels = features[1];
  NODE_VALIDATION_CHECK(
      this, channels.is_dynamic() || channels.get_length() % group_size_ == 0,
      "the channels of features must be divisible by group_size=", group_size_, ", got ", channels);

  const bool by_cells = kind_ == kReassembleSoftmax && !down_; // the phases are channels of the logits
  const ov::Dimension phases = by_cells ? scale_factor_ : 1;
  const ov::Dimension mask_channels = group_size_ * kernel_size_ * kernel_size_;
  const auto size = [&](const ov::Dimension& of_features) {
    return by_cells ? of_features
        : down_     ? divided(of_features, scale_factor_)
                    : of_features * ov::Dimension(scale_factor_);
  };
  const ov::PartialShape expected{
      features[0], kind_ == kCorrelate ? channels : mask_channels * phases * phases, size(features[2]),
      size(features[3])};
  const char* formula = kind_ == kCorrelate ? (down_ ? "(N, C, ceil(H/s), ceil(W/s))" : "(N, C, s*H, s*W)")
      : down_                               ? "(N, G*k*k, ceil(H/s), ceil(W/s))"
      : by_cells                            ? "(N, G*k*k*s*s, H, W)"
                                            : "(N, G*k*k, s*H, s*W)";
  ov::PartialShape known = other; // by what either says
  NODE_VALIDATION_CHECK(
      this, ov::PartialShape::merge_into(known, expected), kTensors[kind_][!features_at()],
      " must have shape ", formula, " = ", expected, " for features of shape ", features, ", got ", other);
  return {known[0], kind_ == kCorrelate ? mask_channels : channels, known[2] * phases, known[3] * phases};
}

void Operator::validate_and_infer_types() {
  NODE_VALIDATION_CHECK(
      this, get_input_size() == 2, kNames[kind_], " takes ", kTensors[kind_][0], " and ", kTensors[kind_][1],
      ", got ", get_input_size(), " tensors");
  check_attributes();
  for (size_t i = 0; i < 2; ++i) {
    const ov::element::Type type = get_input_element_type(i);
    NODE_VALIDATION_CHECK(
        this, type.is_dynamic() || is_supported(type), kTensors[kind_][i],
        " must be floating-point (16, 32 or 64 bits), got ", type);
  }
  set_output_type(
      0, get_input_element_type(0), result_shape(get_input_partial_shape(0), get_input_partial_shape(1)));
}

bool Operator::evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const {
  // Shapes known only now, too, must fit.
  const ov::Shape shape = result_shape(inputs[0].get_shape(), inputs[1].get_shape()).to_shape();
  if (outputs[0].get_shape() != shape)
    outputs[0].set_shape(shape);
  if (outputs[0].get_size() == 0)
    return true;
  const ov::Tensor& features = inputs[features_at()];
  const auto size = [&features](size_t d) { return int64_t(features.get_shape()[d]); };
  const Sizes sizes{size(0), size(1), size(2), size(3), kernel_size_, group_size_, scale_factor_, down_ == 1};
  const bool wide = std::any_of(inputs.begin(), inputs.end(), [](const ov::Tensor& tensor) {
    return tensor.get_element_type() == ov::element::f64;
  });
  Problem p = make_problem(sizes, kind_ == kReassembleSoftmax, wide);
  p.features = view(features);
  if (kind_ == kCorrelate) {
    p.output = view(inputs[0]);
    p.grad_masks = mask_view(view(outputs[0]), p);
    run(select_correlate(p), p);
  } else {
    p.masks = mask_view(view(inputs[1]), p);
    p.output = view(outputs[0]);
    run(select_reassemble(p), p);
  }
  return true;
}

template <Kind kind>
class Of final : public Operator {
public:
  OPENVINO_OP(kNames[kind], kDomain);

  Of() : Operator(kind) {}

  std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& tensors) const override {
    return on(tensors, std::make_shared<Of>());
  }
};

// For ONNX files, and for files that OpenVINO saved.
template <Kind... kinds>
std::vector<ov::Extension::Ptr> extensions() {
  return {
      std::make_shared<ov::frontend::onnx::OpExtension<Of<kinds>>>(kNames[kinds], kDomain)...,
      std::make_shared<ov::OpExtension<Of<kinds>>>()...};
}

} // namespace
} // namespace carafe

OPENVINO_CREATE_EXTENSIONS(
    (carafe::extensions<carafe::kReassemble, carafe::kReassembleSoftmax, carafe::kCorrelate>()));

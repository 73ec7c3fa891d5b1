// SPDX-License-Identifier: Apache-2.0
// The operators' schemas. features [N, C, H, W]; masks [N, G*k*k, H', W'];
// logits [N, G*k*k*s*s, H, W]; output and its gradient [N, C, H', W'], where
// H' = s*H, or, with `down`, H' = ceil(H / s) and logits [N, G*k*k, H', W'].
#include "binding.h"

CARAFE_LIBRARY(m) {
  m.def(
      "reassemble(Tensor features, Tensor masks, int kernel_size, int group_size, "
      "int scale_factor, bool down=False) -> Tensor");
  // The masks' gradient, in `dtype` (default: that of output).
  m.def(
      "correlate(Tensor output, Tensor features, int kernel_size, int group_size, "
      "int scale_factor, bool down=False, ScalarType? dtype=None) -> Tensor");
  // The features' gradient; the down map rounds, so their size goes in.
  m.def(
      "scatter(Tensor output, Tensor masks, SymInt height, SymInt width, "
      "int kernel_size, int group_size, int scale_factor, bool down=False) -> Tensor");
  m.def(
      "reassemble_softmax(Tensor features, Tensor logits, int kernel_size, "
      "int group_size, int scale_factor, bool down=False) -> Tensor");
  // Gradients of features and logits.
  m.def(
      "reassemble_softmax_backward(Tensor grad, Tensor features, Tensor logits, "
      "int kernel_size, int group_size, int scale_factor, bool down=False) "
      "-> (Tensor, Tensor)");
  m.def("cpu_capability() -> str");
}

# SPDX-License-Identifier: Apache-2.0
"""How near a result must come to the exact one: the one table for tests of operators and upsamplers.

By dtype, in parts of the largest exact value, or of 1 where that is smaller; see :func:`within`.
"""

import torch
from torch import Tensor

# An operator, against the exact result for the very same inputs. In 16 bits 1 eps, of which the rounding of
# the result takes half; sums are taken in 32 bits. In 32 and 64 bits the sums round, over k*k*s*s or C
# products: 25 and 450 eps.
OPERATOR = {
    torch.float64: 1e-13,  # eps 2.2e-16
    torch.float32: 3e-6,  # eps 1.2e-7
    torch.float16: 1e-3,  # eps 9.8e-4
    torch.bfloat16: 8e-3,  # eps 7.8e-3
}
# A whole upsampler, whose convolutions, norms and operators round one after the other: 5 eps in 16 bits.
# Also the same layers run by a compiler or by onnxruntime, which sum in another order.
LAYERS = {
    torch.float64: 1e-10,
    torch.float32: 1e-4,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}


def within(tolerance: float, exact: Tensor) -> dict:
    """Arguments of ``torch.testing.assert_close`` for a comparison with ``exact``."""
    return dict(rtol=0, atol=tolerance * max(1, exact.abs().max().item() if exact.numel() else 0))

# SPDX-License-Identifier: Apache-2.0
"""Local similarity: the operator that SAPA scores with, and CARAFE's gradient for its masks."""

from torch import Tensor

from . import _native
from ._checks import Sizes, check_call
from .onnx_form import plain_form


def correlate(
    output: Tensor,
    features: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Compare each pixel of a finer map with the neighbourhood that CARAFE would reassemble into it.

    With ``r = (k - 1) / 2``, ``i = i' // s`` and ``j = j' // s``::

        masks[n, (g * k + a + r) * k + b + r, i', j'] = sum over the channels c of group g of
            output[n, c, i', j'] * features[n, c, i + a, j + b]

    The names are those of :func:`carafe_plugin.ops.carafe`: for ``output`` its output's gradient, this is the
    gradient of its masks. Features are zero outside the map. 16-bit inputs are summed in float32. Any strides
    are right; both inputs get gradients, of any order.

    Args:
        output: the finer map, any floating dtype.
        features: map to compare with. The dtype is that of ``output``, but under autocast the two may differ.
        kernel_size: side k of the neighbourhoods, in pixels of ``features``; odd.
        group_size: number G of groups of contiguous channels, each giving similarities of its own.
        scale_factor: integer ratio s >= 1 of the sizes.

    Returns:
        The similarities, in the dtype of ``output``.

    Shape:
        ``output`` (N, C, s*H, s*W); ``features`` (N, C, H, W) with C divisible by G;
        returns (N, G*k*k, s*H, s*W).

    Raises:
        TypeError, ValueError: as :func:`carafe_plugin.ops.carafe`.

    Example:
        >>> import torch
        >>> from carafe_plugin.ops import correlate
        >>> correlate(torch.rand(1, 8, 8, 12), torch.rand(1, 8, 4, 6), kernel_size=5).shape
        torch.Size([1, 25, 8, 12])
    """
    sizes = Sizes(kernel_size, group_size, scale_factor)
    check_call(sizes, features, output=output)
    run = _native.operator('correlate', features, output) or plain_form().correlate
    return run(output, features, kernel_size, group_size, scale_factor)

# SPDX-License-Identifier: Apache-2.0
"""Local similarity: the operator that SAPA scores with, and CARAFE's gradient for its kernels."""

from torch import Tensor

from . import _native, reference
from ._checks import check_arguments, check_dtypes, check_output, ints


def correlate(
    queries: Tensor,
    features: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Compare each query with the neighbourhood of features that CARAFE would reassemble for it.

    With ``r = (k - 1) / 2``, ``i = i' // s`` and ``j = j' // s``::

        out[n, (g * k + a + r) * k + b + r, i', j'] = sum over the channels c of group g of
            queries[n, c, i', j'] * features[n, c, i + a, j + b]

    Features are zero outside the map. 16-bit inputs are summed in float32. Any strides are right; both inputs
    get gradients, of any order.

    Args:
        queries: one vector per output pixel, any floating dtype.
        features: map to compare with. The dtype is that of ``queries``; under autocast the two may differ.
        kernel_size: side k of the neighbourhoods, in pixels of ``features``; odd.
        group_size: number G of groups of contiguous channels, each giving results of its own.
        scale_factor: integer ratio s >= 1 of the sizes.

    Returns:
        The similarities, in the dtype of ``queries``.

    Shape:
        ``queries`` (N, C, s*H, s*W); ``features`` (N, C, H, W) with C divisible by G;
        returns (N, G*k*k, s*H, s*W).

    Raises:
        TypeError, ValueError: as :func:`carafe_plugin.ops.carafe`.

    Example:
        >>> correlate(torch.rand(1, 8, 8, 12), torch.rand(1, 8, 4, 6), kernel_size=5).shape
        torch.Size([1, 25, 8, 12])
    """
    check_arguments(features, queries, 'queries', kernel_size, group_size, scale_factor)
    check_dtypes(features, queries, 'queries')
    check_output(queries, 'queries', ints(features.shape), scale_factor, False)
    run = _native.operator('correlate', features, queries) or reference.correlate
    return run(queries, features, kernel_size, group_size, scale_factor)

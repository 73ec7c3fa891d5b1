# SPDX-License-Identifier: Apache-2.0
"""Local similarity: the operator that SAPA scores with, and CARAFE's gradient for its kernels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _native
from ._checks import check_dtypes, check_groups, check_integers, check_shape, check_tensors


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
    check_integers(kernel_size, group_size, scale_factor)
    check_tensors(features, queries, 'queries')
    check_dtypes(features, queries, 'queries')
    check_groups(features, group_size)
    n, c, h, w = features.shape
    check_shape(queries, 'queries', (n, c, h * scale_factor, w * scale_factor), '(N, C, s*H, s*W)', features)
    run = _native.operator('correlate', features, queries) or _reference
    return run(queries, features, kernel_size, group_size, scale_factor)


def _reference(
    queries: Tensor,  # [N, C, s*H, s*W]
    features: Tensor,  # [N, C, H, W]
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> Tensor:  # [N, G*k*k, s*H, s*W]
    """The definition in plain PyTorch, one entry of the neighbourhood at a time."""
    dtype = torch.promote_types(torch.promote_types(queries.dtype, features.dtype), torch.float32)
    height, width = queries.shape[-2:]
    padded = F.pad(features.to(dtype), (kernel_size // 2,) * 4)
    if scale_factor > 1:
        padded = F.interpolate(padded, scale_factor=scale_factor, mode='nearest')
    wide = queries.to(dtype)

    entries = []
    for entry in range(kernel_size**2):
        top, left = entry // kernel_size * scale_factor, entry % kernel_size * scale_factor
        product = wide * padded[..., top : top + height, left : left + width]
        entries.append(product.unflatten(1, (group_size, queries.shape[1] // group_size)).sum(2))
    return torch.stack(entries, dim=2).flatten(1, 2).to(queries.dtype)

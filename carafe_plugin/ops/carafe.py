# SPDX-License-Identifier: Apache-2.0
"""The public functions: they check what comes in, then choose who computes it."""

import torch
from torch import Tensor

from . import reference


def carafe(
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Upsample features by reassembling each output pixel from a neighbourhood of the input.

    With ``r = (k - 1) / 2``, ``i = i' // s``, ``j = j' // s`` and ``g`` the group of channel ``c``::

        out[n, c, i', j'] = sum over a, b in [-r, r] of
            masks[n, (g * k + a + r) * k + b + r, i', j'] * features[n, c, i + a, j + b]

    Features are zero outside the map and nothing is renormalised there. 16-bit inputs are summed in
    float32. Any strides are right; both inputs get gradients, of any order.

    Args:
        features: map to upsample, any floating dtype.
        masks: one reassembly kernel per output pixel and group, normalised by the caller. The dtype is
            that of ``features``; under autocast the two may differ.
        kernel_size: side k of the kernels, in input pixels; odd.
        group_size: number G of groups of contiguous channels, each with a kernel of its own.
        scale_factor: integer upsampling ratio s >= 1.

    Returns:
        The upsampled map, in the dtype of ``features``.

    Shape:
        ``features`` (N, C, H, W) with C divisible by G; ``masks`` (N, G*k*k, s*H, s*W);
        returns (N, C, s*H, s*W).

    Raises:
        TypeError: an argument is not a floating-point tensor or an int, or the dtypes differ.
        ValueError: a shape, the device or an integer breaks a rule above.

    Reference:
        Wang et al., CARAFE: Content-Aware ReAssembly of FEatures, ICCV 2019,
        https://arxiv.org/abs/1905.02188. Argument order and meaning are those of ``mmcv.ops.carafe``.

    Example:
        >>> features, masks = torch.rand(1, 8, 4, 6), torch.rand(1, 25, 8, 12).softmax(dim=1)
        >>> carafe(features, masks, kernel_size=5).shape
        torch.Size([1, 8, 8, 12])
    """
    _check_integers(kernel_size, group_size, scale_factor)
    _check_tensors(features, masks, 'masks', group_size)
    n, _, h, w = features.shape
    _check_shape(
        masks,
        'masks',
        (n, group_size * kernel_size**2, h * scale_factor, w * scale_factor),
        '(N, G*k*k, s*H, s*W)',
        features,
    )
    return reference.carafe(features, masks, kernel_size, group_size, scale_factor)


def carafe_softmax(
    features: Tensor,
    logits: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Upsample features with kernels given as the content encoder's raw output.

    Equals pixel-shuffle of ``logits`` by s, softmax over the k*k entries of each kernel (in float32 for
    16-bit inputs), then :func:`carafe`. The channel order is that of
    :func:`torch.nn.functional.pixel_shuffle`: logits channel
    ``((g * k * k + t) * s + i' % s) * s + j' % s`` holds kernel entry t of group g.

    Args:
        features: as in :func:`carafe`.
        logits: unnormalised kernels, s*s of them in the channels of each input pixel; dtype as ``masks``.
        kernel_size: as in :func:`carafe`.
        group_size: as in :func:`carafe`.
        scale_factor: as in :func:`carafe`.

    Returns:
        The upsampled map, in the dtype of ``features``.

    Shape:
        ``features`` (N, C, H, W); ``logits`` (N, G*k*k*s*s, H, W); returns (N, C, s*H, s*W).

    Raises:
        TypeError, ValueError: as :func:`carafe`.

    Example:
        >>> carafe_softmax(torch.rand(1, 8, 4, 6), torch.rand(1, 100, 4, 6), kernel_size=5).shape
        torch.Size([1, 8, 8, 12])
    """
    _check_integers(kernel_size, group_size, scale_factor)
    _check_tensors(features, logits, 'logits', group_size)
    n, _, h, w = features.shape
    _check_shape(
        logits,
        'logits',
        (n, group_size * kernel_size**2 * scale_factor**2, h, w),
        '(N, G*k*k*s*s, H, W)',
        features,
    )
    return reference.carafe_softmax(features, logits, kernel_size, group_size, scale_factor)


def _check_integers(kernel_size: int, group_size: int, scale_factor: int) -> None:
    arguments = dict(kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    for name, value in arguments.items():
        if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
            raise TypeError(f'{name} must be an int, got {value!r}')
        if value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd, got {kernel_size}')


def _check_tensors(features: Tensor, kernels: Tensor, name: str, group_size: int) -> None:
    for label, tensor in (('features', features), (name, kernels)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{label} must be a tensor, got {type(tensor).__name__}')
        if not tensor.is_floating_point():
            raise TypeError(f'{label} must be floating-point, got {tensor.dtype}')
        if tensor.dim() != 4:
            raise ValueError(f'{label} must have 4 dimensions, got shape {tuple(tensor.shape)}')
    if kernels.device != features.device:
        raise ValueError(
            f'features and {name} must be on one device, got {features.device} and {kernels.device}'
        )
    if kernels.dtype != features.dtype and not torch.is_autocast_enabled(features.device.type):
        raise TypeError(f'features and {name} must have one dtype, got {features.dtype} and {kernels.dtype}')
    if features.shape[1] % group_size:
        raise ValueError(
            f'the channels of features must be divisible by group_size={group_size}, got {features.shape[1]}'
        )


def _check_shape(kernels: Tensor, name: str, expected: tuple, formula: str, features: Tensor) -> None:
    if tuple(kernels.shape) != expected:
        raise ValueError(
            f'{name} must have shape {formula} = {expected} for features of shape {tuple(features.shape)}, '
            f'got {tuple(kernels.shape)}'
        )

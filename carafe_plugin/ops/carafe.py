# SPDX-License-Identifier: Apache-2.0
"""The public functions: they check what comes in, then choose who computes it."""

from torch import Tensor

from . import _foreign, _native
from ._checks import Sizes, check_call
from .onnx_form import plain_form


def carafe(
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Upsample features by reassembling each output pixel from a neighbourhood of the input.

    With ``r = (k - 1) / 2``, ``i = i' // s``, ``j = j' // s`` and ``g`` the group of channel ``c``::

        output[n, c, i', j'] = sum over a, b in [-r, r] of
            masks[n, (g * k + a + r) * k + b + r, i', j'] * features[n, c, i + a, j + b]

    Features are zero outside the map and nothing is renormalised there. 16-bit inputs are summed in
    float32. Any strides are right; both inputs get gradients, of any order.

    Args:
        features: map to upsample, any floating dtype.
        masks: one reassembly kernel per output pixel and group, normalised by the caller. The dtype is
            that of ``features``, but under autocast the two may differ.
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
        >>> import torch
        >>> from carafe_plugin.ops import carafe
        >>> features, masks = torch.rand(1, 8, 4, 6), torch.rand(1, 25, 8, 12).softmax(dim=1)
        >>> carafe(features, masks, kernel_size=5).shape
        torch.Size([1, 8, 8, 12])
    """
    sizes = Sizes(kernel_size, group_size, scale_factor)
    check_call(sizes, features, masks=masks)
    run = _native.operator('reassemble', features, masks)
    run = run or _foreign.operator('reassemble', features, masks, sizes) or plain_form().carafe
    return run(features, masks, *sizes)


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
    ``((g * k * k + t) * s + i' % s) * s + j' % s`` holds entry t of the kernel of group g.

    Args:
        features: as in :func:`carafe`.
        logits: unnormalised kernels, s*s of them in the channels of each input pixel; dtype as ``masks`` of
            :func:`carafe`.
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
        >>> import torch
        >>> from carafe_plugin.ops import carafe_softmax
        >>> carafe_softmax(torch.rand(1, 8, 4, 6), torch.rand(1, 100, 4, 6), kernel_size=5).shape
        torch.Size([1, 8, 8, 12])
    """
    sizes = Sizes(kernel_size, group_size, scale_factor)
    check_call(sizes, features, logits=logits)
    run = _native.operator('reassemble_softmax', features, logits)
    run = (
        run or _foreign.operator('reassemble_softmax', features, logits, sizes) or plain_form().carafe_softmax
    )
    return run(features, logits, *sizes)


def carafe_downsample(
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Downsample features by reassembling each output pixel from a neighbourhood of the input.

    With ``r = (k - 1) / 2`` and ``g`` the group of channel ``c``::

        output[n, c, i', j'] = sum over a, b in [-r, r] of
            masks[n, (g * k + a + r) * k + b + r, i', j'] * features[n, c, s * i' + a, s * j' + b]

    Kernels are centred at every s-th pixel, as in a convolution of stride s with padding r. Borders, dtypes,
    strides and gradients are as in :func:`carafe`.

    Args:
        features: map to downsample, any floating dtype.
        masks: one reassembly kernel per output pixel and group, normalised by the caller; dtype as in
            :func:`carafe`.
        kernel_size: side k of the kernels, in input pixels; odd.
        group_size: number G of groups of contiguous channels, each with a kernel of its own.
        scale_factor: integer downsampling ratio s >= 1.

    Returns:
        The downsampled map, in the dtype of ``features``.

    Shape:
        ``features`` (N, C, H, W) with C divisible by G; ``masks`` (N, G*k*k, ceil(H/s), ceil(W/s));
        returns (N, C, ceil(H/s), ceil(W/s)).

    Raises:
        TypeError, ValueError: as :func:`carafe`.

    Reference:
        Wang et al., CARAFE++: Unified Content-Aware ReAssembly of FEatures, TPAMI 2021,
        https://arxiv.org/abs/2012.04733.

    Example:
        >>> import torch
        >>> from carafe_plugin.ops import carafe_downsample
        >>> features, masks = torch.rand(1, 8, 5, 6), torch.rand(1, 25, 3, 3).softmax(dim=1)
        >>> carafe_downsample(features, masks, kernel_size=5).shape
        torch.Size([1, 8, 3, 3])
    """
    sizes = Sizes(kernel_size, group_size, scale_factor, down=True)
    check_call(sizes, features, masks=masks)
    run = _native.operator('reassemble', features, masks) or plain_form().carafe
    return run(features, masks, *sizes)


def carafe_downsample_softmax(
    features: Tensor,
    logits: Tensor,
    kernel_size: int,
    group_size: int = 1,
    scale_factor: int = 2,
) -> Tensor:
    """Downsample features with kernels given as the content encoder's raw output.

    Equals softmax of ``logits`` over the k*k entries of each kernel (in float32 for 16-bit inputs), then
    :func:`carafe_downsample`. There is one kernel per output pixel, hence no shuffle: the content encoder is
    a convolution of stride s.

    Args:
        features: as in :func:`carafe_downsample`.
        logits: unnormalised kernels; dtype as ``masks`` of :func:`carafe`.
        kernel_size: as in :func:`carafe_downsample`.
        group_size: as in :func:`carafe_downsample`.
        scale_factor: as in :func:`carafe_downsample`.

    Returns:
        The downsampled map, in the dtype of ``features``.

    Shape:
        ``features`` (N, C, H, W); ``logits`` (N, G*k*k, ceil(H/s), ceil(W/s));
        returns (N, C, ceil(H/s), ceil(W/s)).

    Raises:
        TypeError, ValueError: as :func:`carafe`.

    Example:
        >>> import torch
        >>> from carafe_plugin.ops import carafe_downsample_softmax
        >>> carafe_downsample_softmax(torch.rand(1, 8, 5, 6), torch.rand(1, 25, 3, 3), kernel_size=5).shape
        torch.Size([1, 8, 3, 3])
    """
    sizes = Sizes(kernel_size, group_size, scale_factor, down=True)
    check_call(sizes, features, logits=logits)
    run = _native.operator('reassemble_softmax', features, logits) or plain_form().carafe_softmax
    return run(features, logits, *sizes)

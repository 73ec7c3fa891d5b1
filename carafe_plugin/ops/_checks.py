# SPDX-License-Identifier: Apache-2.0
"""What the operators demand of their arguments; ``ops/host.cpp`` says the same for direct calls."""

from typing import NamedTuple

from torch import Tensor

from .arguments import require_odd_int, require_positive_int
from .compat import is_autocast_enabled
from .tensors import ints


class Sizes(NamedTuple):
    """The integers that every operator takes after its tensors, in this order."""

    kernel_size: int  # side k of the kernels, in input pixels
    group_size: int  # number G of groups of channels
    scale_factor: int  # ratio s of output to input size, or with ``down`` of input to output size
    down: bool = False


def output_shape(features_shape: tuple, sizes: Sizes) -> tuple:
    """Shape of the reassembled map."""
    n, c, h, w = features_shape
    s = sizes.scale_factor
    if sizes.down:
        return n, c, (h + s - 1) // s, (w + s - 1) // s
    return n, c, h * s, w * s


def masks_shape(features_shape: tuple, sizes: Sizes) -> tuple:
    n, _, h, w = output_shape(features_shape, sizes)
    return n, sizes.group_size * sizes.kernel_size**2, h, w


def logits_shape(features_shape: tuple, sizes: Sizes) -> tuple:
    if sizes.down:
        return masks_shape(features_shape, sizes)
    n, _, h, w = features_shape
    return n, sizes.group_size * (sizes.kernel_size * sizes.scale_factor) ** 2, h, w


# By the name of an argument: its shape, and how an error writes it, upsampling and downsampling.
_OUTPUT = (output_shape, '(N, C, s*H, s*W)', '(N, C, ceil(H/s), ceil(W/s))')
_SHAPES = dict(
    output=_OUTPUT,
    grad=_OUTPUT,
    masks=(masks_shape, '(N, G*k*k, s*H, s*W)', '(N, G*k*k, ceil(H/s), ceil(W/s))'),
    logits=(logits_shape, '(N, G*k*k*s*s, H, W)', '(N, G*k*k, ceil(H/s), ceil(W/s))'),
)


def check_call(sizes: Sizes, features: Tensor, **other: Tensor) -> None:
    """Refuse what a public function does not take; ``other`` is its second tensor, under its name."""
    check_arguments(sizes, features=features, **other)
    for name, tensor in other.items():
        # The operators themselves take any two dtypes.
        if tensor.dtype != features.dtype and not is_autocast_enabled(features.device.type):
            raise TypeError(
                f'features and {name} must have one dtype, got {features.dtype} and {tensor.dtype}'
            )
    check_shapes(sizes, ints(features.shape), **other)


def check_arguments(sizes: Sizes, **tensors: Tensor) -> None:
    """Refuse integers out of range, and tensors that cannot be right for any sizes.

    Tensors come under their names in the call, first the one whose device and channels count.
    """
    require_odd_int('kernel_size', sizes.kernel_size)
    require_positive_int('group_size', sizes.group_size)
    require_positive_int('scale_factor', sizes.scale_factor)
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a tensor, got {type(tensor).__name__}')
        if not tensor.is_floating_point():
            raise TypeError(f'{name} must be floating-point, got {tensor.dtype}')
        if tensor.dim() != 4:
            raise ValueError(f'{name} must have 4 dimensions, got shape {ints(tensor.shape)}')
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.device != first.device:
            raise ValueError(
                f'{first_name} and {name} must be on one device, got {first.device} and {tensor.device}'
            )
    channels = ints(first.shape)[1]
    if channels % sizes.group_size:
        raise ValueError(
            f'the channels of features must be divisible by group_size={sizes.group_size}, got {channels}'
        )


def check_shapes(sizes: Sizes, features_shape: tuple, **tensors: Tensor) -> None:
    """Refuse ``output``, ``grad``, ``masks`` or ``logits`` that do not fit features of ``features_shape``."""
    for name, tensor in tensors.items():
        shape_of, upsampling, downsampling = _SHAPES[name]
        expected, got = shape_of(features_shape, sizes), ints(tensor.shape)
        if got != expected:
            formula = downsampling if sizes.down else upsampling
            raise ValueError(
                f'{name} must have shape {formula} = {expected} for features of shape {features_shape}, '
                f'got {got}'
            )

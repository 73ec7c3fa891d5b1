# SPDX-License-Identifier: Apache-2.0
"""What the operators demand of their arguments; ``ops/host.cpp`` says the same for direct calls."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ._compat import is_autocast_enabled

# Up, down.
_OUTPUT = ('(N, C, s*H, s*W)', '(N, C, ceil(H/s), ceil(W/s))')
_MASKS = ('(N, G*k*k, s*H, s*W)', '(N, G*k*k, ceil(H/s), ceil(W/s))')
_LOGITS = ('(N, G*k*k*s*s, H, W)', _MASKS[1])


def ints(shape: Sequence) -> tuple:
    """A shape as plain ints; ``torch.jit.trace`` makes tensors of it and warns where one is looked at.

    For shapes that are looked at to refuse a call or to choose a way, not to compute with.
    """
    if not torch.jit.is_tracing():
        return tuple(shape)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        return tuple(map(int, shape))


def output_shape(shape: tuple, scale_factor: int, down: bool) -> tuple:
    """Shape of the reassembled map, for features of ``shape``."""
    n, c, h, w = shape
    if down:
        return n, c, (h + scale_factor - 1) // scale_factor, (w + scale_factor - 1) // scale_factor
    return n, c, h * scale_factor, w * scale_factor


def masks_shape(shape: tuple, kernel_size: int, group_size: int, scale_factor: int, down: bool) -> tuple:
    n, _, h, w = output_shape(shape, scale_factor, down)
    return n, group_size * kernel_size**2, h, w


def logits_shape(shape: tuple, kernel_size: int, group_size: int, scale_factor: int, down: bool) -> tuple:
    if down:
        return masks_shape(shape, kernel_size, group_size, scale_factor, down)
    n, _, h, w = shape
    return n, group_size * (kernel_size * scale_factor) ** 2, h, w


def check_arguments(
    features: Tensor, other: Tensor, name: str, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Refuse what is wrong whatever the sizes of ``other``, the argument called ``name``."""
    for label, value in dict(
        kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor
    ).items():
        if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
            raise TypeError(f'{label} must be an int, got {value!r}')
        if value < 1:
            raise ValueError(f'{label} must be at least 1, got {value}')
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd, got {kernel_size}')
    for label, tensor in (('features', features), (name, other)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{label} must be a tensor, got {type(tensor).__name__}')
        if not tensor.is_floating_point():
            raise TypeError(f'{label} must be floating-point, got {tensor.dtype}')
        if tensor.dim() != 4:
            raise ValueError(f'{label} must have 4 dimensions, got shape {ints(tensor.shape)}')
    if other.device != features.device:
        raise ValueError(
            f'features and {name} must be on one device, got {features.device} and {other.device}'
        )
    channels = ints(features.shape)[1]
    if channels % group_size:
        raise ValueError(
            f'the channels of features must be divisible by group_size={group_size}, got {channels}'
        )


def check_output(output: Tensor, name: str, shape: tuple, scale_factor: int, down: bool) -> None:
    """Refuse a reassembled map, the argument called ``name``, that does not fit features of ``shape``."""
    _check_shape(output, name, output_shape(shape, scale_factor, down), _OUTPUT, down, shape)


def check_kernels(kernels: Tensor, name: str, shape: tuple, *call) -> None:
    """Refuse ``masks`` or ``logits``, as ``name`` says, that do not fit features of ``shape``.

    ``call`` is kernel_size, group_size, scale_factor and down, as the operators take them.
    """
    shape_of, formulas = (masks_shape, _MASKS) if name == 'masks' else (logits_shape, _LOGITS)
    _check_shape(kernels, name, shape_of(shape, *call), formulas, call[-1], shape)


def check_call(features: Tensor, kernels: Tensor, name: str, *call) -> None:
    """All that a public function demands; arguments as in :func:`check_kernels`."""
    check_arguments(features, kernels, name, *call[:3])
    check_dtypes(features, kernels, name)
    check_kernels(kernels, name, ints(features.shape), *call)


def check_dtypes(features: Tensor, other: Tensor, name: str) -> None:
    """Refuse a mixture of dtypes outside autocast, though the operators themselves take any two."""
    if other.dtype != features.dtype and not is_autocast_enabled(features.device.type):
        raise TypeError(f'features and {name} must have one dtype, got {features.dtype} and {other.dtype}')


def _check_shape(
    tensor: Tensor, name: str, expected: tuple, formulas: tuple[str, str], down: bool, shape: tuple
) -> None:
    got = ints(tensor.shape)
    if got != expected:
        formula = formulas[1] if down else formulas[0]  # Dynamo of torch 2.10 takes no bool for an index
        raise ValueError(
            f'{name} must have shape {formula} = {expected} for features of shape {shape}, got {got}'
        )

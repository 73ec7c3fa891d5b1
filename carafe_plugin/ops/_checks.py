# SPDX-License-Identifier: Apache-2.0
"""What the operators demand of their arguments; ``ops/host.cpp`` says the same for direct calls."""

import torch
from torch import Tensor


def check_integers(kernel_size: int, group_size: int, scale_factor: int) -> None:
    arguments = dict(kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor)
    for name, value in arguments.items():
        if not isinstance(value, (int, torch.SymInt)) or isinstance(value, bool):
            raise TypeError(f'{name} must be an int, got {value!r}')
        if value < 1:
            raise ValueError(f'{name} must be at least 1, got {value}')
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be odd, got {kernel_size}')


def check_tensors(features: Tensor, kernels: Tensor, name: str) -> None:
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


def check_dtypes(features: Tensor, kernels: Tensor, name: str) -> None:
    """Dtypes may differ under autocast only, though the operators themselves take any two."""
    if kernels.dtype != features.dtype and not torch.is_autocast_enabled(features.device.type):
        raise TypeError(f'features and {name} must have one dtype, got {features.dtype} and {kernels.dtype}')


def check_groups(features: Tensor, group_size: int) -> None:
    if features.shape[1] % group_size:
        raise ValueError(
            f'the channels of features must be divisible by group_size={group_size}, got {features.shape[1]}'
        )


def check_shape(kernels: Tensor, name: str, expected: tuple, formula: str, features: Tensor) -> None:
    if tuple(kernels.shape) != expected:
        raise ValueError(
            f'{name} must have shape {formula} = {expected} for features of shape {tuple(features.shape)}, '
            f'got {tuple(kernels.shape)}'
        )

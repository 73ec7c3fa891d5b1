# SPDX-License-Identifier: Apache-2.0
"""Checks of single arguments. Each returns what it was given, or raises an error that names the argument."""

import numbers
from collections.abc import Sequence

import torch
from torch import Tensor

from .tensors import ints


def require_positive_int(name: str, value: int) -> int:
    """An int of at least 1, of Python, numpy or a trace; TypeError or ValueError otherwise."""
    if not isinstance(value, (numbers.Integral, torch.SymInt)) or isinstance(value, bool):
        raise TypeError(f'{name} must be an int, got {value!r}')
    if value < 1:
        raise ValueError(f'{name} must be at least 1, got {value}')
    return value if isinstance(value, torch.SymInt) else int(value)


def require_odd_int(name: str, value: int) -> int:
    """As :func:`require_positive_int`, for the side of a kernel that has a centre."""
    if require_positive_int(name, value) % 2 == 0:
        raise ValueError(f'{name} must be odd, got {value}')
    return value


def require_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """One of a few words; the ValueError lists them."""
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(choices)}, got {value!r}')
    return value


def require_divisible(name: str, value: int, divisor_name: str, divisor: int) -> int:
    """A multiple of another argument, which must be a positive int; the ValueError names both."""
    if value % require_positive_int(divisor_name, divisor):
        raise ValueError(f'{name} must be divisible by {divisor_name}={divisor}, got {value}')
    return value


def require_channels(name: str, x: Tensor, channels: int) -> Tensor:
    """A batch of maps with this many channels; ValueError otherwise."""
    shape = ints(x.shape)
    if len(shape) != 4 or shape[1] != channels:
        raise ValueError(f'{name} must have shape (N, {channels}, H, W), got {shape}')
    return x


def require_scale_factor(name: str, scale_factor: int, only: int) -> int:
    """The one ratio for which the upsampler called ``name`` is defined; ValueError for another."""
    if scale_factor != only:
        raise ValueError(f'{name} is defined for scale_factor={only} only, got {scale_factor}')
    return scale_factor

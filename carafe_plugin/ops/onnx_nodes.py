# SPDX-License-Identifier: Apache-2.0
"""The operators as nodes of the ONNX domain ``carafe_plugin``, for both exporters of PyTorch."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ._checks import Sizes, masks_shape, output_shape
from .tensors import ints

DOMAIN = 'carafe_plugin'
VERSION = 1

# How many domain_operators() are open.
_open = 0


@contextlib.contextmanager
def domain_operators() -> Iterator[None]:
    """Let exporters write a node for each operator; see :mod:`carafe_plugin.onnx_domain`."""
    global _open
    _open += 1
    try:
        yield
    finally:
        _open -= 1


def are_wanted() -> bool:
    return _open > 0


def carafe(
    features: Tensor,
    masks: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe`."""
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    return _node('reassemble', features, masks, sizes, output_shape(features.shape, sizes))


def carafe_softmax(
    features: Tensor,
    logits: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe_softmax`."""
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    return _node('reassemble_softmax', features, logits, sizes, output_shape(features.shape, sizes))


def correlate(
    output: Tensor, features: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.correlate`."""
    sizes = Sizes(kernel_size, group_size, scale_factor)
    return _node('correlate', output, features, sizes, masks_shape(features.shape, sizes))


def _node(name: str, first: Tensor, second: Tensor, sizes: Sizes, shape: tuple) -> Tensor:
    if torch.float64 in (first.dtype, second.dtype):
        raise TypeError(f'{DOMAIN}.{name} is for 32 and 16 bits, got {first.dtype} and {second.dtype}')
    if not torch.compiler.is_exporting():  # the exporter by TorchScript
        return _Node.apply(name, first, second, sizes, ints(shape))
    attributes: dict[str, Any] = {key: int(value) for key, value in sizes._asdict().items()}
    attributes['plugin_namespace'] = DOMAIN  # TensorRT's parser looks for a plugin where a node has it
    return torch.onnx.ops.symbolic(
        f'{DOMAIN}::{name}', (first, second), attributes, dtype=first.dtype, shape=shape, version=VERSION
    )


class _Node(torch.autograd.Function):
    """Zeros, which the exporter by TorchScript writes as the operator's node."""

    @staticmethod
    def forward(ctx: Any, name: str, first: Tensor, second: Tensor, sizes: Sizes, shape: tuple) -> Tensor:
        return first.new_zeros(shape)

    @staticmethod
    def symbolic(g: Any, name: str, first: Any, second: Any, sizes: Sizes, shape: tuple) -> Any:
        attributes: dict[str, Any] = {f'{key}_i': int(value) for key, value in sizes._asdict().items()}
        node = g.op(f'{DOMAIN}::{name}', first, second, **attributes, plugin_namespace_s=DOMAIN)
        return node.setType(first.type().with_sizes([None, int(shape[1]), None, None]))

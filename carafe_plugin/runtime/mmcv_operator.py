# SPDX-License-Identifier: Apache-2.0
"""mmcv's compiled operator, which serves on CUDA where none of ours does: hosts are never slower than mmcv.

It is asked for float32 copies in dense rows, and only where it is right. In float16 it sums in float16, hence
the copies; its shared memory ends at 384 weights of a pixel, its counters at 31 bits, it knows the upsampling
form and neither bfloat16 nor an empty batch, and its gradients have none of their own: a second derivative
comes from the plain PyTorch form. At the border it leaves out what ours multiplies by zero, so that a mask
which is not finite there makes no NaN.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from carafe_plugin.ops import _foreign, compat, reference
from carafe_plugin.ops._checks import Sizes
from carafe_plugin.ops.tensors import pixel_shuffle

#: Where it has kernels.
DEVICE = 'cuda'
_DTYPES = {torch.float32, torch.float16, torch.bfloat16}
_MOST_WEIGHTS = 384  # 49,152 bytes of shared memory hold the float weights of a block's 32 pixels
_WARP = 32


@functools.cache
def originals() -> dict:
    """mmcv's functions by name, forward and backward by autograd class, also under ``mmcv_patch``.

    mmcv's module holds them, so that a second import of this one (``importlib.reload``) does not take the
    patch for the original.
    """
    import mmcv.ops  # noqa: F401

    # The attribute mmcv.ops.carafe is the function, which hides the module of that name.
    module = sys.modules['mmcv.ops.carafe']
    return module.__dict__.setdefault(
        '_carafe_plugin_originals',
        {name: getattr(module, name) for name in ('carafe', 'carafe_naive')}
        | {
            kind: (kind.forward, kind.backward)
            for kind in (module.CARAFEFunction, module.CARAFENaiveFunction)
        },
    )


@functools.cache
def why_not() -> str | None:
    """Why there is none with CUDA kernels, in a clause; None where there is."""
    try:
        originals()
        from mmcv.ops import get_compiling_cuda_version
    except ImportError as error:
        return str(error)
    return 'mmcv was compiled without CUDA' if get_compiling_cuda_version() == 'not available' else None


def is_right(features_shape: tuple, dtypes: set[torch.dtype], sizes: Sizes) -> bool:
    """Whether its result and its gradients are right for a call."""
    n, c, h, w = features_shape
    weights = sizes.kernel_size**2 * sizes.group_size
    pixels = n * h * w * sizes.scale_factor**2
    largest = pixels * max(c, _WARP * weights)  # elements of the output, threads of its masks' gradient
    return (
        not sizes.down
        and dtypes <= _DTYPES
        and weights <= _MOST_WEIGHTS
        and c * pixels > 0
        and largest < 2**31
    )


def is_eager(*tensors: Tensor) -> bool:
    """Whether plain tensors are computed now: its autograd class can neither be traced nor transformed."""
    return not (
        compat.is_compiling()
        or torch.jit.is_tracing()
        or torch.onnx.is_in_onnx_export()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack()
        or any(type(x) not in (Tensor, torch.nn.Parameter) for x in tensors)
    )


def choose(name: str, features: Tensor, other: Tensor, sizes: Sizes) -> Callable | None:
    """The function for :mod:`carafe_plugin.ops`: see :func:`carafe_plugin.ops._foreign.enter`."""
    if features.device.type != DEVICE or not is_eager(features, other):
        return None
    if not is_right(tuple(features.shape), {features.dtype, other.dtype}, sizes) or why_not():
        return None
    return dict(reassemble=_reassemble, reassemble_softmax=_reassemble_softmax)[name]


def _reassemble(features: Tensor, masks: Tensor, *sizes: int) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe`, of the upsampling form."""
    inputs = (x.float().contiguous() for x in (features, masks))
    return _Reassemble.apply(*inputs, *sizes[:3]).to(features.dtype)


def _reassemble_softmax(features: Tensor, logits: Tensor, *sizes: int) -> Tensor:
    """As :func:`carafe_plugin.ops.reference.carafe_softmax`, of the upsampling form."""
    kernel_size, group_size, scale_factor = sizes[:3]
    weights = pixel_shuffle(logits.float(), scale_factor).unflatten(1, (group_size, kernel_size**2))
    return _reassemble(features, weights.softmax(2).flatten(1, 2), *sizes)


def _function() -> tuple[Callable, Callable]:
    return originals()[sys.modules['mmcv.ops.carafe'].CARAFEFunction]


class _Reassemble(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, masks: Tensor, *sizes: int) -> Tensor:
        return _function()[0](ctx, features, masks, *sizes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        if not torch.is_grad_enabled():
            return _function()[1](ctx, grad)
        inputs = ctx.saved_tensors[:2]
        features, masks = inputs
        output = reference.carafe(features, masks, ctx.kernel_size, ctx.group_size, ctx.scale_factor)
        needed = [x for x, need in zip(inputs, ctx.needs_input_grad, strict=False) if need]
        grads = iter(torch.autograd.grad(output, needed, grad, create_graph=True))
        return *(next(grads) if need else None for need in ctx.needs_input_grad[:2]), None, None, None


def serve_on_cuda() -> None:
    """Let ``carafe`` and ``carafe_softmax`` use it."""
    _foreign.enter(choose)

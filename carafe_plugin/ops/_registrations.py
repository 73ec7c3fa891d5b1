# SPDX-License-Identifier: Apache-2.0
"""What the bindings leave to Python: fake kernels, autograd, vmap and FLOP formulas.

The operators reassemble (A), correlate (B) and scatter (C) are closed under differentiation, and the fused
form's second derivative is made of them: gradients of every order run natively. There is no autocast rule,
because there is nothing to cast: every operator takes any two dtypes, sums in float32 or better, and
returns the dtype of the features (16-bit features with float32 masks is autocast's normal case).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from . import compat
from ._checks import Sizes, check_arguments, check_shapes, masks_shape, output_shape
from .tensors import pixel_shuffle, pixel_unshuffle

_ops = torch.ops.carafe_plugin


# Fake kernels: the checks of the native entries, with the words and the error of a direct torch.ops call. ---


def _empty(shape: tuple, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As the native ``empty_like``: in the layout of ``like``, and in its dtype unless another is given."""
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=suggest_memory_format(like)
    )


def _fake(name: str) -> Callable[[Callable], Callable]:
    def register(function: Callable) -> Callable:
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError) as error:
                raise RuntimeError(str(error)) from None

        compat.register_fake(name, checked)
        return function

    return register


@_fake('reassemble')
def _(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int, down: bool = False
) -> Tensor:
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    check_arguments(sizes, features=features, masks=masks)
    check_shapes(sizes, tuple(features.shape), masks=masks)
    return _empty(output_shape(features.shape, sizes), features)


@_fake('reassemble_softmax')
def _(
    features: Tensor, logits: Tensor, kernel_size: int, group_size: int, scale_factor: int, down: bool = False
) -> Tensor:
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    check_arguments(sizes, features=features, logits=logits)
    check_shapes(sizes, tuple(features.shape), logits=logits)
    return _empty(output_shape(features.shape, sizes), features)


@_fake('correlate')
def _(
    output: Tensor,
    features: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    check_arguments(sizes, features=features, output=output)
    check_shapes(sizes, tuple(features.shape), output=output)
    return _empty(masks_shape(features.shape, sizes), output, dtype)


@_fake('scatter')
def _(
    output: Tensor,
    masks: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> Tensor:
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    check_arguments(sizes, output=output, masks=masks)
    features_shape = (*output.shape[:2], height, width)
    check_shapes(sizes, features_shape, output=output, masks=masks)
    return _empty(features_shape, output)


@_fake('reassemble_softmax_backward')
def _(
    grad: Tensor,
    features: Tensor,
    logits: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
    down: bool = False,
) -> tuple[Tensor, Tensor]:
    sizes = Sizes(kernel_size, group_size, scale_factor, down)
    check_arguments(sizes, features=features, logits=logits, grad=grad)
    check_shapes(sizes, tuple(features.shape), logits=logits, grad=grad)
    return _empty(features.shape, grad), _empty(logits.shape, logits)


# Autograd: each formula in terms of the operators themselves. -----------------------------------------------


def _register_bilinear(name: str, grad_first: Callable, grad_second: Callable, sizes_at: int = 0) -> None:
    """Register the gradients of an operator that is linear in each of its two tensors.

    Args:
        name: of the operator.
        grad_first: function (ctx, grad, second tensor) that returns the first tensor's gradient.
        grad_second: function (ctx, grad, first tensor) that returns the second tensor's gradient.
        sizes_at: how many arguments stand between the tensors and the :class:`Sizes`.
    """

    def setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
        first, second, *others = inputs
        ctx.sizes = Sizes(*others[sizes_at : sizes_at + 4])
        ctx.size_first, ctx.size_second, ctx.dtype_second = first.shape[2:], second.shape[2:], second.dtype
        need_first, need_second = ctx.needs_input_grad[:2]
        ctx.save_for_backward(first if need_second else None, second if need_first else None)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        first, second = ctx.saved_tensors
        need_first, need_second, *others = ctx.needs_input_grad
        return (
            grad_first(ctx, grad, second) if need_first else None,
            grad_second(ctx, grad, first) if need_second else None,
            *(None for _ in others),
        )

    compat.register_autograd(name, backward, setup)


_register_bilinear(
    'reassemble',
    lambda ctx, grad, masks: _ops.scatter(grad, masks, *ctx.size_first, *ctx.sizes),
    lambda ctx, grad, features: _ops.correlate(grad, features, *ctx.sizes, dtype=ctx.dtype_second),
)
_register_bilinear(
    'correlate',
    lambda ctx, grad, features: _ops.reassemble(features, grad, *ctx.sizes),
    lambda ctx, grad, output: _ops.scatter(output, grad, *ctx.size_second, *ctx.sizes),
)
_register_bilinear(
    'scatter',
    lambda ctx, grad, masks: _ops.reassemble(grad, masks, *ctx.sizes),
    lambda ctx, grad, output: _ops.correlate(output, grad, *ctx.sizes, dtype=ctx.dtype_second),
    sizes_at=2,  # after the height and the width
)


def _softmax_setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    features, logits, *sizes = inputs
    ctx.sizes = Sizes(*sizes)
    ctx.save_for_backward(features, logits)


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = _ops.reassemble_softmax_backward(grad, *ctx.saved_tensors, *ctx.sizes)
    return *grads, None, None, None, None


def _softmax_backward_setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    grad, features, logits, *sizes = inputs
    ctx.sizes = Sizes(*sizes)
    ctx.save_for_backward(grad, features, logits)


def _softmax_double_backward(ctx: Any, u: Tensor, v: Tensor) -> tuple[Tensor | None, ...]:
    """With P = softmax, S(P, v) = P * (v - <P, v>), gP = B(grad, x) and M = S(P, v)::

        grad: A(u, P) + A(x, M)        x: C(grad, M)
        logits: S(P, B(grad, u) + v * gP - gP * <P, v> - v * <P, gP>)

    ``< >`` sums over the k*k entries of a kernel.
    """
    grad, x, logits = ctx.saved_tensors
    sizes = ctx.sizes
    dtype = torch.promote_types(torch.promote_types(x.dtype, logits.dtype), torch.float32)
    phases = 1 if sizes.down else sizes.scale_factor
    entries = sizes.group_size, sizes.kernel_size**2

    def shuffled(t: Tensor) -> Tensor:  # logits' layout to [N, G, k*k, H', W']
        return pixel_shuffle(t.to(dtype), phases).unflatten(1, entries)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(2, keepdim=True)

    def softmax_backward(p: Tensor, t: Tensor) -> Tensor:
        return p * (t - dot(p, t))

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        return _ops.correlate(a, b, *sizes, dtype=dtype).unflatten(1, entries)

    p, v = shuffled(logits).softmax(2), shuffled(v)
    grad_p, m = correlate(grad, x), softmax_backward(p, v)
    masks, tangent = p.flatten(1, 2), m.flatten(1, 2)
    grad_grad = _ops.reassemble(u, masks, *sizes) + _ops.reassemble(x, tangent, *sizes)
    grad_x = _ops.scatter(grad, tangent, *x.shape[2:], *sizes)
    inner = correlate(grad, u) + v * grad_p - grad_p * dot(p, v) - v * dot(p, grad_p)
    grad_logits = pixel_unshuffle(softmax_backward(p, inner).flatten(1, 2), phases).to(logits.dtype)
    return grad_grad, grad_x, grad_logits, None, None, None, None


for _name, _setup, _backward in (
    ('reassemble_softmax', _softmax_setup, _softmax_backward),
    ('reassemble_softmax_backward', _softmax_backward_setup, _softmax_double_backward),
):
    compat.register_autograd(_name, _backward, _setup)


# vmap: images are independent, so a mapped dimension joins the batch. -----------------------------------


def _register_vmap(name: str) -> None:
    operator = getattr(_ops, name)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple:
        def into_batch(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, Tensor):
                return arg
            arg = arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            return arg.flatten(0, 1)

        def out_of_batch(result: Tensor) -> Tensor:
            return result.unflatten(0, (info.batch_size, result.shape[0] // info.batch_size))

        results = operator(*map(into_batch, args, in_dims))
        if isinstance(results, Tensor):
            return out_of_batch(results), 0
        return tuple(map(out_of_batch, results)), (0,) * len(results)

    compat.register_vmap(name, rule)


# FLOPs, 2 per multiply-add, as torch.utils.flop_counter counts a convolution. The softmax is left out. ------


def _flop_formula(*operators: Any) -> Callable[[Callable], None]:
    return lambda formula: compat.register_flop_formula(list(operators), formula)


def _flops(output_shape: Sequence[int], kernel_size: int) -> int:
    n, c, h, w = output_shape
    return 2 * n * c * h * w * kernel_size**2


@_flop_formula(_ops.reassemble, _ops.reassemble_softmax)
def _reassemble_flops(
    features: Any, masks: Any, kernel_size: int, *sizes: Any, out_shape: Any = None, **kwargs: Any
) -> int:
    return _flops(out_shape, kernel_size)


@_flop_formula(_ops.correlate)
def _correlate_flops(output: Any, features: Any, kernel_size: int, *sizes: Any, **kwargs: Any) -> int:
    return _flops(output, kernel_size)


@_flop_formula(_ops.scatter)
def _scatter_flops(
    output: Any, masks: Any, height: int, width: int, kernel_size: int, *sizes: Any, **kwargs: Any
) -> int:
    return _flops(output, kernel_size)


@_flop_formula(_ops.reassemble_softmax_backward)
def _backward_flops(
    grad: Any, features: Any, logits: Any, kernel_size: int, *sizes: Any, **kwargs: Any
) -> int:
    return 2 * _flops(grad, kernel_size)


for _name in ('reassemble', 'correlate', 'scatter', 'reassemble_softmax', 'reassemble_softmax_backward'):
    _register_vmap(_name)

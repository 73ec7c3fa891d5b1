# SPDX-License-Identifier: Apache-2.0
"""What the bindings leave to Python: fake kernels, autograd, vmap and FLOP formulas.

The operators reassemble (A), correlate (B) and scatter (C) are closed under differentiation, and the fused
form's second derivative is made of them: gradients of every order run natively. There is no autocast rule,
because there is nothing to cast: every operator takes any two dtypes, sums in float32 or better, and
returns the dtype of the features (16-bit features with float32 masks is autocast's normal case).
"""

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from . import _compat
from ._checks import check_arguments, check_kernels, check_output, masks_shape, output_shape
from .reference import pixel_shuffle, pixel_unshuffle

_ops = torch.ops.carafe_plugin


# Fake kernels: the checks of the native entries, with the words and the error of a direct torch.ops call. ---
# ``call`` is kernel_size, group_size, scale_factor, down: what every operator takes last.


def _empty(shape: tuple, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As the native ``empty``: in the layout of ``like``."""
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=suggest_memory_format(like)
    )


def _fake(name: str):
    def register(function):
        def checked(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError) as error:
                raise RuntimeError(str(error)) from None

        _compat.register_fake(name, checked)
        return function

    return register


@_fake('reassemble')
def _(features, masks, kernel_size, group_size, scale_factor, down=False):
    call = (kernel_size, group_size, scale_factor, down)
    check_arguments(features, masks, 'masks', *call[:3])
    check_kernels(masks, 'masks', tuple(features.shape), *call)
    return _empty(output_shape(features.shape, scale_factor, down), features)


@_fake('reassemble_softmax')
def _(features, logits, kernel_size, group_size, scale_factor, down=False):
    call = (kernel_size, group_size, scale_factor, down)
    check_arguments(features, logits, 'logits', *call[:3])
    check_kernels(logits, 'logits', tuple(features.shape), *call)
    return _empty(output_shape(features.shape, scale_factor, down), features)


@_fake('correlate')
def _(output, features, kernel_size, group_size, scale_factor, down=False, dtype=None):
    call = (kernel_size, group_size, scale_factor, down)
    check_arguments(features, output, 'output', *call[:3])
    check_output(output, 'output', tuple(features.shape), scale_factor, down)
    return _empty(masks_shape(features.shape, *call), output, dtype)


@_fake('scatter')
def _(output, masks, height, width, kernel_size, group_size, scale_factor, down=False):
    call = (kernel_size, group_size, scale_factor, down)
    check_arguments(output, masks, 'masks', *call[:3])
    shape = (*output.shape[:2], height, width)
    check_output(output, 'output', shape, scale_factor, down)
    check_kernels(masks, 'masks', shape, *call)
    return _empty(shape, output)


@_fake('reassemble_softmax_backward')
def _(grad, features, logits, kernel_size, group_size, scale_factor, down=False):
    call = (kernel_size, group_size, scale_factor, down)
    check_arguments(features, logits, 'logits', *call[:3])
    check_arguments(features, grad, 'grad', *call[:3])
    check_kernels(logits, 'logits', tuple(features.shape), *call)
    check_output(grad, 'grad', tuple(features.shape), scale_factor, down)
    return _empty(features.shape, grad), _empty(logits.shape, logits)


# Autograd: each formula in terms of the operators themselves. -----------------------------------------------


def _register_bilinear(name, first_of_call, grad_first, grad_second):
    """Enter the gradients of an operator that is linear in each of its two tensors.

    ``grad_first(ctx, grad, second)`` and ``grad_second(ctx, grad, first)`` give them; ``first_of_call`` is
    where ``call`` begins behind the tensors.
    """

    def setup(ctx, inputs, output):
        first, second, *others = inputs
        ctx.call = others[first_of_call : first_of_call + 4]
        ctx.size_first, ctx.size_second, ctx.dtype_second = first.shape[2:], second.shape[2:], second.dtype
        need_first, need_second = ctx.needs_input_grad[:2]
        ctx.save_for_backward(first if need_second else None, second if need_first else None)

    def backward(ctx, grad):
        first, second = ctx.saved_tensors
        need_first, need_second, *others = ctx.needs_input_grad
        return (
            grad_first(ctx, grad, second) if need_first else None,
            grad_second(ctx, grad, first) if need_second else None,
            *(None for _ in others),
        )

    _compat.register_autograd(name, backward, setup)


_register_bilinear(
    'reassemble',
    0,
    lambda ctx, grad, masks: _ops.scatter(grad, masks, *ctx.size_first, *ctx.call),
    lambda ctx, grad, features: _ops.correlate(grad, features, *ctx.call, dtype=ctx.dtype_second),
)
_register_bilinear(
    'correlate',
    0,
    lambda ctx, grad, features: _ops.reassemble(features, grad, *ctx.call),
    lambda ctx, grad, output: _ops.scatter(output, grad, *ctx.size_second, *ctx.call),
)
_register_bilinear(
    'scatter',
    2,
    lambda ctx, grad, masks: _ops.reassemble(grad, masks, *ctx.call),
    lambda ctx, grad, output: _ops.correlate(output, grad, *ctx.call, dtype=ctx.dtype_second),
)


def _softmax_setup(ctx, inputs, output):
    features, logits, *ctx.call = inputs
    ctx.save_for_backward(features, logits)


def _softmax_backward(ctx, grad):
    grads = _ops.reassemble_softmax_backward(grad, *ctx.saved_tensors, *ctx.call)
    return *grads, None, None, None, None


def _softmax_backward_setup(ctx, inputs, output):
    grad, features, logits, *ctx.call = inputs
    ctx.save_for_backward(grad, features, logits)


def _softmax_double_backward(ctx, u, v):
    """With P = softmax, S(P, v) = P * (v - <P, v>), gP = B(grad, x) and M = S(P, v)::

        grad: A(u, P) + A(x, M)        x: C(grad, M)
        logits: S(P, B(grad, u) + v * gP - gP * <P, v> - v * <P, gP>)

    ``< >`` sums over the k*k entries of a kernel.
    """
    grad, x, logits = ctx.saved_tensors
    kernel_size, group_size, scale_factor, down = ctx.call
    dtype = torch.promote_types(torch.promote_types(x.dtype, logits.dtype), torch.float32)
    phases = 1 if down else scale_factor

    def to_kernels(t):  # logits' layout to [N, G, k*k, H', W']
        return pixel_shuffle(t.to(dtype), phases).unflatten(1, (group_size, kernel_size**2))

    def dot(a, b):
        return (a * b).sum(2, keepdim=True)

    def softmax_backward(p, t):
        return p * (t - dot(p, t))

    def correlate(a, b):
        return _ops.correlate(a, b, *ctx.call, dtype=dtype).unflatten(1, (group_size, kernel_size**2))

    p, v = to_kernels(logits).softmax(2), to_kernels(v)
    grad_p, m = correlate(grad, x), softmax_backward(p, v)
    grad_grad = _ops.reassemble(u, p.flatten(1, 2), *ctx.call) + _ops.reassemble(
        x, m.flatten(1, 2), *ctx.call
    )
    grad_x = _ops.scatter(grad, m.flatten(1, 2), *x.shape[2:], *ctx.call)
    inner = correlate(grad, u) + v * grad_p - grad_p * dot(p, v) - v * dot(p, grad_p)
    grad_logits = pixel_unshuffle(softmax_backward(p, inner).flatten(1, 2), phases).to(logits.dtype)
    return grad_grad, grad_x, grad_logits, None, None, None, None


for _name, _setup, _backward in (
    ('reassemble_softmax', _softmax_setup, _softmax_backward),
    ('reassemble_softmax_backward', _softmax_backward_setup, _softmax_double_backward),
):
    _compat.register_autograd(_name, _backward, _setup)


# vmap: images are independent, so that a mapped dimension joins the batch. ----------------------------------


def _register_vmap(name: str) -> None:
    operator = getattr(_ops, name)

    def rule(info, in_dims, *args):
        def into_batch(arg, dim):
            if not isinstance(arg, Tensor):
                return arg
            arg = arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            return arg.flatten(0, 1)

        def out_of_batch(out):
            return out.unflatten(0, (info.batch_size, out.shape[0] // info.batch_size))

        out = operator(*map(into_batch, args, in_dims))
        if isinstance(out, Tensor):
            return out_of_batch(out), 0
        return tuple(map(out_of_batch, out)), (0,) * len(out)

    _compat.register_vmap(name, rule)


# FLOPs, 2 per multiply-add, as torch.utils.flop_counter counts a convolution. The softmax is left out. ------


def _flop_formula(*operators):
    return lambda formula: _compat.register_flop_formula(list(operators), formula)


def _flops(output_shape, kernel_size: int) -> int:
    n, c, h, w = output_shape
    return 2 * n * c * h * w * kernel_size**2


@_flop_formula(_ops.reassemble, _ops.reassemble_softmax)
def _reassemble_flops(features, kernels, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(out_shape, kernel_size)


@_flop_formula(_ops.correlate)
def _correlate_flops(output, features, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(output, kernel_size)


@_flop_formula(_ops.scatter)
def _scatter_flops(output, masks, height, width, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(output, kernel_size)


@_flop_formula(_ops.reassemble_softmax_backward)
def _backward_flops(grad, features, logits, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return 2 * _flops(grad, kernel_size)


for _name in ('reassemble', 'correlate', 'scatter', 'reassemble_softmax', 'reassemble_softmax_backward'):
    _register_vmap(_name)

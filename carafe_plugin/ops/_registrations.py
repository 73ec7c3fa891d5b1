# SPDX-License-Identifier: Apache-2.0
"""What the stable ABI leaves to Python: fake kernels, autograd, vmap and FLOP formulas.

The operators reassemble (A), correlate (B) and scatter (C) are closed under differentiation, and the fused
form's second derivative is made of them: gradients of every order run natively. There is no autocast rule,
because there is nothing to cast: every operator takes any two dtypes, sums in float32 or better, and
returns the dtype of the features (16-bit features with float32 masks is autocast's normal case).
"""

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.utils.flop_counter import register_flop_formula

from ._checks import check_groups, check_integers, check_shape, check_tensors
from .reference import pixel_shuffle

_ops = torch.ops.carafe_plugin


# Shapes -----------------------------------------------------------------------------------------------------


def _output_size(height, width, scale_factor, down):
    if down:
        return (height + scale_factor - 1) // scale_factor, (width + scale_factor - 1) // scale_factor
    return height * scale_factor, width * scale_factor


def _output_shape(features: Tensor, scale_factor: int, down: bool) -> tuple:
    n, c, h, w = features.shape
    return n, c, *_output_size(h, w, scale_factor, down)


def _masks_shape(features, kernel_size, group_size, scale_factor, down) -> tuple:
    n, _, h, w = _output_shape(features, scale_factor, down)
    return n, group_size * kernel_size**2, h, w


def _logits_shape(features, kernel_size, group_size, scale_factor, down) -> tuple:
    if down:
        return _masks_shape(features, kernel_size, group_size, scale_factor, down)
    n, _, h, w = features.shape
    return n, group_size * (kernel_size * scale_factor) ** 2, h, w


def _empty(shape: tuple, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As the native ``empty``: in the layout of ``like``."""
    return torch.empty(
        shape, dtype=dtype or like.dtype, device=like.device, memory_format=suggest_memory_format(like)
    )


# Fake kernels: the checks of the native entries, with the words and the error of a direct torch.ops call. ---


def _fake(name: str):
    def register(function):
        def checked(*args, **kwargs):
            try:
                return function(*args, **kwargs)
            except (TypeError, ValueError) as error:
                raise RuntimeError(str(error)) from None

        torch.library.register_fake(f'carafe_plugin::{name}', checked)
        return function

    return register


def _check(features, kernels, name, kernel_size, group_size, scale_factor):
    check_integers(kernel_size, group_size, scale_factor)
    check_tensors(features, kernels, name)
    check_groups(features, group_size)


@_fake('reassemble')
def _(features, masks, kernel_size, group_size, scale_factor, down=False):
    sizes = (kernel_size, group_size, scale_factor)
    _check(features, masks, 'masks', *sizes)
    formula = '(N, G*k*k, ceil(H/s), ceil(W/s))' if down else '(N, G*k*k, s*H, s*W)'
    check_shape(masks, 'masks', _masks_shape(features, *sizes, down), formula, features)
    return _empty(_output_shape(features, scale_factor, down), features)


@_fake('reassemble_softmax')
def _(features, logits, kernel_size, group_size, scale_factor, down=False):
    sizes = (kernel_size, group_size, scale_factor)
    _check(features, logits, 'logits', *sizes)
    formula = '(N, G*k*k, ceil(H/s), ceil(W/s))' if down else '(N, G*k*k*s*s, H, W)'
    check_shape(logits, 'logits', _logits_shape(features, *sizes, down), formula, features)
    return _empty(_output_shape(features, scale_factor, down), features)


@_fake('correlate')
def _(output, features, kernel_size, group_size, scale_factor, down=False, dtype=None):
    sizes = (kernel_size, group_size, scale_factor)
    _check(features, output, 'output', *sizes)
    formula = '(N, C, ceil(H/s), ceil(W/s))' if down else '(N, C, s*H, s*W)'
    check_shape(output, 'output', _output_shape(features, scale_factor, down), formula, features)
    return _empty(_masks_shape(features, *sizes, down), output, dtype)


@_fake('scatter')
def _(output, masks, height, width, kernel_size, group_size, scale_factor, down=False):
    sizes = (kernel_size, group_size, scale_factor)
    _check(output, masks, 'masks', *sizes)
    features = _empty((*output.shape[:2], height, width), output)
    formula = '(N, C, ceil(H/s), ceil(W/s))' if down else '(N, C, s*H, s*W)'
    check_shape(output, 'output', _output_shape(features, scale_factor, down), formula, features)
    formula = '(N, G*k*k, ceil(H/s), ceil(W/s))' if down else '(N, G*k*k, s*H, s*W)'
    check_shape(masks, 'masks', _masks_shape(features, *sizes, down), formula, features)
    return features


@_fake('reassemble_softmax_backward')
def _(grad, features, logits, kernel_size, group_size, scale_factor, down=False):
    sizes = (kernel_size, group_size, scale_factor)
    _check(features, logits, 'logits', *sizes)
    formula = '(N, G*k*k, ceil(H/s), ceil(W/s))' if down else '(N, G*k*k*s*s, H, W)'
    check_shape(logits, 'logits', _logits_shape(features, *sizes, down), formula, features)
    formula = '(N, C, ceil(H/s), ceil(W/s))' if down else '(N, C, s*H, s*W)'
    check_shape(grad, 'grad', _output_shape(features, scale_factor, down), formula, features)
    return _empty(features.shape, grad), _empty(logits.shape, logits)


# Autograd: each formula in terms of the operators themselves. -----------------------------------------------


def _reassemble_setup(ctx, inputs, output):
    features, masks, *ctx.sizes = inputs
    ctx.size, ctx.dtype = features.shape[2:], masks.dtype
    ctx.save_for_backward(
        features if ctx.needs_input_grad[1] else None, masks if ctx.needs_input_grad[0] else None
    )


def _reassemble_backward(ctx, grad):
    features, masks = ctx.saved_tensors
    grad_features = grad_masks = None
    if ctx.needs_input_grad[0]:
        grad_features = _ops.scatter(grad, masks, *ctx.size, *ctx.sizes)
    if ctx.needs_input_grad[1]:
        grad_masks = _ops.correlate(grad, features, *ctx.sizes, dtype=ctx.dtype)
    return grad_features, grad_masks, None, None, None, None


def _correlate_setup(ctx, inputs, output):
    out, features, *ctx.sizes, _ = inputs
    ctx.size = features.shape[2:]
    ctx.save_for_backward(
        out if ctx.needs_input_grad[1] else None, features if ctx.needs_input_grad[0] else None
    )


def _correlate_backward(ctx, grad):
    out, features = ctx.saved_tensors
    grad_out = grad_features = None
    if ctx.needs_input_grad[0]:
        grad_out = _ops.reassemble(features, grad, *ctx.sizes)
    if ctx.needs_input_grad[1]:
        grad_features = _ops.scatter(out, grad, *ctx.size, *ctx.sizes)
    return grad_out, grad_features, None, None, None, None, None


def _scatter_setup(ctx, inputs, output):
    out, masks, _, _, *ctx.sizes = inputs
    ctx.dtype = masks.dtype
    ctx.save_for_backward(
        out if ctx.needs_input_grad[1] else None, masks if ctx.needs_input_grad[0] else None
    )


def _scatter_backward(ctx, grad):
    out, masks = ctx.saved_tensors
    grad_out = grad_masks = None
    if ctx.needs_input_grad[0]:
        grad_out = _ops.reassemble(grad, masks, *ctx.sizes)
    if ctx.needs_input_grad[1]:
        grad_masks = _ops.correlate(out, grad, *ctx.sizes, dtype=ctx.dtype)
    return grad_out, grad_masks, None, None, None, None, None, None


def _softmax_setup(ctx, inputs, output):
    features, logits, *ctx.sizes = inputs
    ctx.save_for_backward(features, logits)


def _softmax_backward(ctx, grad):
    grads = _ops.reassemble_softmax_backward(grad, *ctx.saved_tensors, *ctx.sizes)
    return *grads, None, None, None, None


def _softmax_backward_setup(ctx, inputs, output):
    grad, features, logits, *ctx.sizes = inputs
    ctx.save_for_backward(grad, features, logits)


def _softmax_double_backward(ctx, u, v):
    """With P = softmax, S(P, v) = P * (v - <P, v>), gP = B(grad, x) and M = S(P, v)::

        grad: A(u, P) + A(x, M)        x: C(grad, M)
        logits: S(P, B(grad, u) + v * gP - gP * <P, v> - v * <P, gP>)

    ``< >`` sums over the k*k entries of a kernel.
    """
    grad, x, logits = ctx.saved_tensors
    kernel_size, group_size, scale_factor, down = ctx.sizes
    dtype = torch.promote_types(torch.promote_types(x.dtype, logits.dtype), torch.float32)
    phases = 1 if down else scale_factor

    def to_kernels(t):  # logits' layout to [N, G, k*k, H', W']
        return pixel_shuffle(t.to(dtype), phases).unflatten(1, (group_size, kernel_size**2))

    def dot(a, b):
        return (a * b).sum(2, keepdim=True)

    def softmax_backward(p, t):
        return p * (t - dot(p, t))

    def correlate(a, b):
        return _ops.correlate(a, b, *ctx.sizes, dtype=dtype).unflatten(1, (group_size, kernel_size**2))

    p, v = to_kernels(logits).softmax(2), to_kernels(v)
    grad_p, m = correlate(grad, x), softmax_backward(p, v)
    grad_grad = _ops.reassemble(u, p.flatten(1, 2), *ctx.sizes) + _ops.reassemble(
        x, m.flatten(1, 2), *ctx.sizes
    )
    grad_x = _ops.scatter(grad, m.flatten(1, 2), *x.shape[2:], *ctx.sizes)
    inner = correlate(grad, u) + v * grad_p - grad_p * dot(p, v) - v * dot(p, grad_p)
    grad_logits = _pixel_unshuffle(softmax_backward(p, inner).flatten(1, 2), phases).to(logits.dtype)
    return grad_grad, grad_x, grad_logits, None, None, None, None


def _pixel_unshuffle(x: Tensor, scale_factor: int) -> Tensor:  # [N, C, s*H, s*W] -> [N, C*s*s, H, W]
    s = scale_factor
    h, w = x.shape[2] // s, x.shape[3] // s
    return x.unflatten(3, (w, s)).unflatten(2, (h, s)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


for _name, _setup, _backward in (
    ('reassemble', _reassemble_setup, _reassemble_backward),
    ('correlate', _correlate_setup, _correlate_backward),
    ('scatter', _scatter_setup, _scatter_backward),
    ('reassemble_softmax', _softmax_setup, _softmax_backward),
    ('reassemble_softmax_backward', _softmax_backward_setup, _softmax_double_backward),
):
    torch.library.register_autograd(f'carafe_plugin::{_name}', _backward, setup_context=_setup)


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

    torch.library.register_vmap(f'carafe_plugin::{name}', rule)


# FLOPs, 2 per multiply-add, as torch.utils.flop_counter counts a convolution. The softmax is left out. ------


def _flops(output_shape, kernel_size: int) -> int:
    n, c, h, w = output_shape
    return 2 * n * c * h * w * kernel_size**2


@register_flop_formula([_ops.reassemble, _ops.reassemble_softmax])
def _reassemble_flops(features, kernels, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(out_shape, kernel_size)


@register_flop_formula(_ops.correlate)
def _correlate_flops(output, features, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(output, kernel_size)


@register_flop_formula(_ops.scatter)
def _scatter_flops(output, masks, height, width, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return _flops(output, kernel_size)


@register_flop_formula(_ops.reassemble_softmax_backward)
def _backward_flops(grad, features, logits, kernel_size, *sizes, out_shape=None, **kwargs) -> int:
    return 2 * _flops(grad, kernel_size)


for _name in ('reassemble', 'correlate', 'scatter', 'reassemble_softmax', 'reassemble_softmax_backward'):
    _register_vmap(_name)

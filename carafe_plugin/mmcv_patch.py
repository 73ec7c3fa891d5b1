# SPDX-License-Identifier: Apache-2.0
"""Run unmodified mmcv models (``FPN_CARAFE``, any ``CARAFEPack``) on this package's operator.

``mmcv.ops.carafe`` runs on CUDA alone, in float32 and float16. Importing this module puts
:func:`carafe_plugin.ops.carafe` in its place, so that the same models, with the same weights, run on every
device and dtype: ``custom_imports = dict(imports=['carafe_plugin.mmcv_patch'])``, or
``carafe_plugin.patch_mmcv()``. :func:`undo` puts everything back; :data:`ORIGINALS` keeps the original
at hand.
"""

import sys
from typing import Any

import mmcv.ops
import torch
from torch import Tensor

from carafe_plugin.ops import carafe
from carafe_plugin.runtime.mmcv_operator import originals

# The attribute mmcv.ops.carafe is the function, which hides the module of that name.
_MODULE: Any = sys.modules['mmcv.ops.carafe']

#: mmcv's functions: the operator, and the plainer form of the same operator that it compares itself with.
NAMES = ('carafe', 'carafe_naive')
#: Their autograd classes.
KINDS = (_MODULE.CARAFEFunction, _MODULE.CARAFENaiveFunction)
#: What mmcv had: the functions by name, and the two methods of each class.
ORIGINALS = originals()


def apply() -> None:
    """Redirect mmcv's three ways in: module global, package attribute, and the autograd classes.

    The last serve code that did ``from mmcv.ops import carafe`` before the patch: what it holds is bound to
    that class.
    """
    for name in NAMES:
        setattr(_MODULE, name, carafe)
        setattr(mmcv.ops, name, carafe)
    for kind in KINDS:
        kind.forward, kind.backward = staticmethod(_forward), staticmethod(_backward)


def undo() -> None:
    """Put back what :func:`apply` replaced."""
    for name in NAMES:
        setattr(_MODULE, name, ORIGINALS[name])
        setattr(mmcv.ops, name, ORIGINALS[name])
    for kind in KINDS:
        kind.forward, kind.backward = map(staticmethod, ORIGINALS[kind])


def _forward(ctx: Any, features: Tensor, masks: Tensor, *sizes: int) -> Tensor:
    ctx.save_for_backward(features, masks)
    ctx.sizes = sizes
    return carafe(features, masks, *sizes)


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
    inputs = [
        x.detach().requires_grad_(need)
        for x, need in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
    ]
    with torch.enable_grad():
        output = carafe(*inputs, *ctx.sizes)
    grads = iter(torch.autograd.grad(output, [x for x in inputs if x.requires_grad], grad_output))
    return *(next(grads) if x.requires_grad else None for x in inputs), None, None, None


apply()

# SPDX-License-Identifier: Apache-2.0
"""Run FeatUp and SAPA without compiling their extensions, on this package's operators, on every device.

Importing this module, or ``carafe_plugin.patch_featup()``, before ``featup`` or ``sapa`` serves two names:

- ``featup.adaptive_conv_cuda.adaptive_conv.AdaptiveConv``, whose ``apply`` filters a padded map by a kernel
  for each pixel (FeatUp's JBU, and what others took over from it);
- ``sapa.sim`` and ``sapa.atn``, similarity and reassembly with the channels last.

Where such a module was imported already, what it has is replaced; else one of that name stands in for it.
Gradients are those of this package's operators, of any order. :func:`undo` takes everything back.
"""

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

from torch import Tensor

from carafe_plugin.ops import carafe, correlate
from carafe_plugin.upsamplers.jbu import reassemble_padded

FEATUP = 'featup.adaptive_conv_cuda.adaptive_conv'
SAPA = 'sapa'


def adaptive_conv(padded: Tensor, filters: Tensor) -> Tensor:
    """FeatUp's operator: the sum over i, j of filters[n, y, x, i, j] * padded[n, c, y + i, x + j].

    Args:
        padded: map with a border of (k - 1) / 2 pixels, any floating dtype.
        filters: a kernel for each pixel of the result; the dtype of ``padded``.

    Shape:
        ``padded`` (N, C, H + k - 1, W + k - 1), ``filters`` (N, H, W, k, k) with k odd; returns (N, C, H, W).

    Raises:
        ValueError: the shapes do not fit, or k is even.
    """
    if filters.dim() != 5 or filters.shape[3] != filters.shape[4] or filters.shape[3] % 2 == 0:
        raise ValueError(f'filters must have shape (N, H, W, k, k) with k odd, got {tuple(filters.shape)}')
    (images, rows, columns, k, _), got = filters.shape, tuple(padded.shape)
    if len(got) != 4 or (got[0], *got[2:]) != (images, rows + k - 1, columns + k - 1):
        raise ValueError(
            f'padded must have shape (N, C, H + k - 1, W + k - 1) = ({images}, C, {rows + k - 1}, '
            f'{columns + k - 1}) for filters of shape {tuple(filters.shape)}, got {got}'
        )
    return reassemble_padded(padded, filters.flatten(3).permute(0, 3, 1, 2), k)


def sim(query: Tensor, key: Tensor, kernel_size: int, scale_factor: int) -> Tensor:
    """SAPA's similarities: (N, s*H, s*W, C) with (N, H, W, C) to (N, s*H, s*W, k*k).

    Arguments and errors are those of :func:`carafe_plugin.ops.correlate`, but for the channels last.
    """
    query, key = (x.permute(0, 3, 1, 2) for x in (query, key))
    return correlate(query, key, kernel_size, 1, scale_factor).permute(0, 2, 3, 1)


def atn(attn: Tensor, value: Tensor, kernel_size: int, scale_factor: int) -> Tensor:
    """SAPA's reassembly: (N, s*H, s*W, k*k) with (N, H, W, C) to (N, s*H, s*W, C).

    Arguments and errors are those of :func:`carafe_plugin.ops.carafe`, but for the channels last.
    """
    attn, value = (x.permute(0, 3, 1, 2) for x in (attn, value))
    return carafe(value, attn, kernel_size, 1, scale_factor).permute(0, 2, 3, 1)


def _stand_ins() -> dict[str, ModuleType]:
    """Modules for those that are not there, always the same: what was imported from one keeps it."""
    featup, sapa = ModuleType(FEATUP), ModuleType(SAPA)
    featup.__dict__['AdaptiveConv'] = type(
        'AdaptiveConv', (), {'__doc__': "FeatUp's class, where it has none."}
    )
    return {FEATUP: featup, SAPA: sapa}


_STAND_INS = _stand_ins()
_restore: list[Callable[[], None]] = []


def apply() -> None:
    """Serve the names above; does nothing where they are served already."""
    if _restore:
        return
    for name, stand_in in _STAND_INS.items():
        if name not in sys.modules:
            sys.modules[name] = stand_in
            _restore.append(partial(sys.modules.__delitem__, name))
    _replace(vars(sys.modules[FEATUP])['AdaptiveConv'], 'apply', staticmethod(adaptive_conv))
    _replace(sys.modules[SAPA], 'sim', sim)
    _replace(sys.modules[SAPA], 'atn', atn)


def undo() -> None:
    """Put back what :func:`apply` replaced, and take its stand-ins away."""
    while _restore:
        _restore.pop()()


def _replace(owner: type | ModuleType, name: str, value: object) -> None:
    if name in vars(owner):
        _restore.append(partial(setattr, owner, name, vars(owner)[name]))
    else:
        _restore.append(partial(delattr, owner, name))
    setattr(owner, name, value)


apply()

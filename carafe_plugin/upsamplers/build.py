# SPDX-License-Identifier: Apache-2.0
"""The registry of upsamplers and the builder behind every ``upsample_cfg`` field."""

from collections.abc import Mapping

from carafe_plugin.ops.arguments import require_positive_int
from carafe_plugin.ops.registry import Registry

from .base import Upsampler

UPSAMPLERS: Registry[Upsampler] = Registry('upsampler', 'upsample_cfg')


def build_upsampler(
    cfg: Mapping,
    in_channels: int,
    scale_factor: int = 2,
    *,
    guide_channels: int | None = None,
) -> Upsampler:
    """Build the upsampler that an ``upsample_cfg`` names.

    Args:
        cfg: ``dict(type=NAME, ...)`` with NAME registered in :data:`UPSAMPLERS` (or a class) and further
            arguments of that class.
        in_channels: channels of the map to upsample.
        scale_factor: ratio that the host needs.
        guide_channels: channels of the finer map that the host offers; None where it has none.

    Raises:
        TypeError: ``cfg`` is not a mapping, or holds an argument that the class does not take.
        ValueError: ``type`` is missing or unknown, ``scale_factor`` contradicts the host, or the upsampler
            needs a guide that the host does not have.

    Example:
        >>> from carafe_plugin.upsamplers import build_upsampler
        >>> build_upsampler(dict(type='carafe', up_kernel=7), in_channels=256).up_kernel
        7
    """
    cls, arguments = UPSAMPLERS.resolve(cfg, given=('in_channels', 'guide_channels'))
    asked = require_positive_int('scale_factor', arguments.setdefault('scale_factor', scale_factor))
    if asked != scale_factor:
        raise ValueError(
            f'upsample_cfg asks for scale_factor={asked}, this place upsamples by {scale_factor} '
            '(the third argument of build_upsampler, which a host gives)'
        )
    if cls.needs_guide:
        if guide_channels is None:
            unguided = ', '.join(name for name in UPSAMPLERS if not UPSAMPLERS.get(name).needs_guide)
            raise ValueError(
                f'upsampler {cfg["type"]!r} needs a guide (a finer map), and this place has none; '
                f'set upsample_cfg.type to one of {unguided}'
            )
        arguments['guide_channels'] = guide_channels
    return cls(in_channels, **arguments)

# SPDX-License-Identifier: Apache-2.0
"""The registry of downsamplers and the builder behind the ``downsample_cfg`` field. Experimental."""

from collections.abc import Mapping

from carafe_plugin.ops.registry import Registry

from .base import Downsampler

DOWNSAMPLERS: Registry[Downsampler] = Registry('downsampler', 'downsample_cfg')


def build_downsampler(cfg: Mapping, in_channels: int, scale_factor: int = 2) -> Downsampler:
    """Build the downsampler that a ``downsample_cfg`` names. Experimental: the field may change.

    Args:
        cfg: ``dict(type=NAME, ...)`` with NAME registered in :data:`DOWNSAMPLERS` (or a class) and further
            arguments of that class.
        in_channels: channels of the map to downsample.
        scale_factor: ratio that the host needs.

    Raises:
        TypeError: ``cfg`` is not a mapping, or holds an argument that the class does not take or that the
            host gives.
        ValueError: ``type`` is missing or unknown.

    Example:
        >>> from carafe_plugin.downsamplers import build_downsampler
        >>> build_downsampler(dict(type='carafe', down_kernel=3), in_channels=64).down_kernel
        3
    """
    cls, arguments = DOWNSAMPLERS.resolve(cfg, given=('in_channels', 'scale_factor'))
    return cls(in_channels, scale_factor, **arguments)

# SPDX-License-Identifier: Apache-2.0
"""The call contract of a downsampler."""

from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_positive_int


class Downsampler(nn.Module):
    """Base class: a map of ``in_channels`` channels, ``scale_factor`` times smaller, sizes rounded up.

    A subclass takes ``(in_channels, scale_factor=2, *, ...)`` and overrides :meth:`forward`.

    Args:
        in_channels: channels of the map, kept by the downsampler.
        scale_factor: integer ratio >= 1 of input to output size.

    Raises:
        TypeError, ValueError: an argument is not a positive int.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2) -> None:
        super().__init__()
        self.in_channels = require_positive_int('in_channels', in_channels)
        self.scale_factor = require_positive_int('scale_factor', scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Downsample ``x`` (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s))."""
        raise NotImplementedError

    def init_weights(self) -> None:
        """Set the published initialisation; hosts call it after their own."""

    def extra_repr(self) -> str:
        return f'in_channels={self.in_channels}, scale_factor={self.scale_factor}'

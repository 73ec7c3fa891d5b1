# SPDX-License-Identifier: Apache-2.0
"""What residual networks downsample with: strided convolution and pooling."""

import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_odd_int
from carafe_plugin.ops.init import init_conv

from .base import Downsampler
from .build import DOWNSAMPLERS


@DOWNSAMPLERS.register_module('strided_conv')
class StridedConvDownsampler(Downsampler):
    """A convolution of stride ``scale_factor``.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        kernel_size: side of the convolution; odd.

    Shape:
        (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s)).

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``kernel_size`` is even.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2, *, kernel_size: int = 3) -> None:
        super().__init__(in_channels, scale_factor)
        padding = require_odd_int('kernel_size', kernel_size) // 2
        self.conv = nn.Conv2d(in_channels, in_channels, kernel_size, stride=scale_factor, padding=padding)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights, zero biases."""
        init_conv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@DOWNSAMPLERS.register_module('max_pool')
class MaxPoolDownsampler(Downsampler):
    """The maximum around every s-th pixel; by default the 3x3 window of ResNet's stem.

    Args, Shape, Raises: as :class:`StridedConvDownsampler`.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2, *, kernel_size: int = 3) -> None:
        super().__init__(in_channels, scale_factor)
        self.kernel_size = require_odd_int('kernel_size', kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel_size, self.scale_factor, self.kernel_size // 2)


@DOWNSAMPLERS.register_module('avg_pool')
class AvgPoolDownsampler(Downsampler):
    """The mean of every s x s block; blocks that the bottom or right border cuts have fewer pixels.

    Shape:
        (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s)).
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.scale_factor, ceil_mode=True, count_include_pad=False)

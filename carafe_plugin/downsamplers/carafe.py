# SPDX-License-Identifier: Apache-2.0
"""CARAFE++: Wang et al., CARAFE++: Unified Content-Aware ReAssembly of FEatures, TPAMI 2022,
https://arxiv.org/abs/2012.04733.
"""

from torch import Tensor, nn

from carafe_plugin.ops import carafe_downsample_softmax
from carafe_plugin.ops.arguments import require_divisible, require_odd_int, require_positive_int
from carafe_plugin.ops.init import init_conv

from .base import Downsampler
from .build import DOWNSAMPLERS


@DOWNSAMPLERS.register_module('carafe')
class CarafeDownsample(Downsampler):
    """Downsample with a kernel per output pixel, predicted from the content around it.

    As CARAFE upwards, but the kernel-predicting convolution has stride s and nothing is shuffled. No code was
    released: the kernel sides are the paper's, but the 16 compressed channels and the initialisation, that of
    upsampling, are known at second hand only. Neither norm nor activation follows the compression.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        down_kernel: side k of the reassembly kernels, in input pixels; odd.
        down_group: number G of channel groups, each with kernels of its own; divides C.
        encoder_kernel: side of the kernel-predicting convolution; odd.
        compressed_channels: channels between the two convolutions.

    Shape:
        (N, C, H, W) to (N, C, ceil(H/s), ceil(W/s)). 7,737 parameters at C = 256 and the defaults.

    Raises:
        TypeError, ValueError: an argument is not a positive int, a kernel side is even, or C is not
            divisible by G.

    Example:
        >>> import torch
        >>> from carafe_plugin.downsamplers import CarafeDownsample
        >>> CarafeDownsample(64)(torch.rand(2, 64, 9, 12)).shape
        torch.Size([2, 64, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        down_kernel: int = 5,
        down_group: int = 1,
        encoder_kernel: int = 3,
        compressed_channels: int = 16,
    ) -> None:
        super().__init__(in_channels, scale_factor)
        self.down_kernel = require_odd_int('down_kernel', down_kernel)
        self.down_group = down_group
        require_divisible('in_channels', in_channels, 'down_group', down_group)
        require_odd_int('encoder_kernel', encoder_kernel)
        require_positive_int('compressed_channels', compressed_channels)
        self.channel_compressor = nn.Conv2d(in_channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            down_kernel**2 * down_group,
            encoder_kernel,
            stride=scale_factor,
            padding=encoder_kernel // 2,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform compressor; encoder N(0, 0.001), so that kernels start near a plain mean."""
        init_conv(self.channel_compressor)
        init_conv(self.content_encoder, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.content_encoder(self.channel_compressor(x))
        return carafe_downsample_softmax(x, logits, self.down_kernel, self.down_group, self.scale_factor)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, down_kernel={self.down_kernel}, down_group={self.down_group}'

# SPDX-License-Identifier: Apache-2.0
"""Sub-pixel convolution: Shi et al., CVPR 2016, https://arxiv.org/abs/1609.05158."""

from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_odd_int
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import pixel_shuffle

from .base import Upsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('pixel_shuffle')
class PixelShuffleUpsampler(Upsampler):
    """Predict the s*s sub-pixels of every pixel by a convolution, then rearrange them.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        upsample_kernel: side of the convolution; odd.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 2,359,296 weights and 1,024 biases at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``upsample_kernel`` is even.
    """

    published_names = (('0.', 'upsample_conv.'),)

    def __init__(self, in_channels: int, scale_factor: int = 2, *, upsample_kernel: int = 3) -> None:
        super().__init__(in_channels, scale_factor)
        require_odd_int('upsample_kernel', upsample_kernel)
        self.upsample_conv = nn.Conv2d(
            in_channels,
            in_channels * scale_factor**2,
            upsample_kernel,
            padding=upsample_kernel // 2,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights, zero biases."""
        init_conv(self.upsample_conv)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return pixel_shuffle(self.upsample_conv(x), self.scale_factor)

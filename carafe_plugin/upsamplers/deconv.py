# SPDX-License-Identifier: Apache-2.0
"""Transposed convolution, a baseline of the CARAFE paper (https://arxiv.org/abs/1905.02188)."""

from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_positive_int
from carafe_plugin.ops.init import init_conv

from .base import Upsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('deconv')
class DeconvUpsampler(Upsampler):
    """Upsample by a transposed convolution of stride ``scale_factor``.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        kernel_size: side of the kernel, in output pixels; at least s, so that every output pixel is reached.
            3 with s = 2 is the layer of the paper's FPN tables.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 589,824 weights and 256 biases at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``kernel_size`` is below s.
    """

    # Of mmdet's FPN_CARAFE, which has the layer itself in this place.
    published_names = (
        ('weight', 'deconv.weight'),
        ('bias', 'deconv.bias'),
    )

    def __init__(self, in_channels: int, scale_factor: int = 2, *, kernel_size: int = 3) -> None:
        super().__init__(in_channels, scale_factor)
        overlap = require_positive_int('kernel_size', kernel_size) - scale_factor
        if overlap < 0:
            raise ValueError(f'kernel_size must be at least scale_factor={scale_factor}, got {kernel_size}')
        # Crop ceil(overlap / 2) pixels at each side; output_padding gives an odd one back.
        padding = (overlap + 1) // 2
        self.deconv = nn.ConvTranspose2d(
            in_channels,
            in_channels,
            kernel_size,
            stride=scale_factor,
            padding=padding,
            output_padding=2 * padding - overlap,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights, zero biases."""
        init_conv(self.deconv)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return self.deconv(x)

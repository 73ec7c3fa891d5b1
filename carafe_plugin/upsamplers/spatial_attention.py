# SPDX-License-Identifier: Apache-2.0
"""Spatial attention, a baseline of the CARAFE paper (https://arxiv.org/abs/1905.02188)."""

import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops.init import init_conv

from .base import Upsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('spatial_attention')
class SpatialAttentionUpsampler(Upsampler):
    """Interpolate bilinearly, then weight every pixel by a number predicted from around it.

    The paper gives only the cost of this baseline, 28 kFLOPs per input pixel and 2.3k weights, and that it
    is CARAFE with one kernel entry and no normaliser. A 3x3 convolution C -> 1 with sigmoid on the enlarged
    map has that cost; it and its initialisation are inferred, not published.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 2,304 weights and 1 bias at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2) -> None:
        super().__init__(in_channels, scale_factor)
        self.attention = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights, zero bias."""
        init_conv(self.attention)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=self.scale_factor, mode='bilinear', align_corners=False)
        return enlarged * self.attention(enlarged).sigmoid()

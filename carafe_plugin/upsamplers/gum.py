# SPDX-License-Identifier: Apache-2.0
"""GUM, a baseline of the CARAFE paper.

Mazzini, Guided Upsampling Network for Real-Time Semantic Segmentation, BMVC 2018,
https://arxiv.org/abs/1807.07466.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops.init import init_conv

from .base import Upsampler
from .build import UPSAMPLERS
from .sampling import sample_around_centres


@UPSAMPLERS.register_module('gum')
class GUM(Upsampler):
    """Interpolate bilinearly at positions that a table of predicted offsets has moved.

    The CARAFE paper gives only the cost of its GUM, 1.1 MFLOPs per input pixel and 132k weights. Two 1x1
    convolutions C -> C with ReLU and one C -> 2 on the bilinearly enlarged map have that cost; this head, its
    activations and its initialisation are inferred, not published.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 131,584 weights and 514 biases at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2) -> None:
        super().__init__(in_channels, scale_factor)
        self.offset = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 1),
            nn.ReLU(),
            nn.Conv2d(in_channels, in_channels, 1),
            nn.ReLU(),
            nn.Conv2d(in_channels, 2, 1),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform; the last layer N(0, 0.001), so that sampling starts near the bilinear grid."""
        for layer in self.offset.children():
            init_conv(layer)
        init_conv(self.offset[-1], std=0.001)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        enlarged = F.interpolate(x, scale_factor=self.scale_factor, mode='bilinear', align_corners=False)
        return sample_around_centres(x, self.offset(enlarged), self.scale_factor)

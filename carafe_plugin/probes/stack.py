# SPDX-License-Identifier: Apache-2.0
"""Upsamplers on top of each other, from a backbone's map to the size of the image."""

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from mmengine.model import BaseModule, ModuleList
from mmseg.registry import MODELS
from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_channels, require_positive_int
from carafe_plugin.upsamplers import build_upsampler


@MODELS.register_module()
class UpsampleStack(BaseModule):
    """Upsample a map step by step, each step guided by the image at the size that it makes.

    As in FeatUp, whose CARAFE, SAPA and JBU are four separate upsamplers of ratio 2: the guide is the image
    as the network sees it, RGB and normalised, averaged over the pixels of the step's map.

    Args:
        in_channels: channels C of the map, kept.
        upsample_cfg: ``dict(type=NAME, ...)``, the same for each step; None leaves the map as it is.
        scale_factors: ratio of each step, so ``(2, 2, 2, 2)`` for 16 in four steps and ``(16,)`` for one.
        to_image: resize the result bilinearly to the image where it is of another size, as FeatUp does
            for patches of 14 pixels.
        residual: end with x + 0.1 * (1x1 convolution of x), as FeatUp's JBU stack does; the convolution's
            input drops a fifth of its channels in training.

    Shape:
        ``x`` (N, C, H, W) and images (N, 3, h, w); returns (N, C, s*H, s*W) with s the product of the ratios,
        or (N, C, h, w) with ``to_image``.

    Raises:
        TypeError, ValueError: as :func:`carafe_plugin.build_upsampler`; in the call, the map has other
            channels.
    """

    def __init__(
        self,
        in_channels: int,
        upsample_cfg: dict | None,
        scale_factors: Sequence[int] = (2, 2, 2, 2),
        to_image: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = require_positive_int('in_channels', in_channels)
        self.upsamplers = ModuleList()
        for factor in scale_factors:
            require_positive_int('scale_factors', factor)
            if upsample_cfg is not None:
                self.upsamplers.append(build_upsampler(upsample_cfg, in_channels, factor, guide_channels=3))
        self.scale_factor = prod(upsampler.scale_factor for upsampler in self.upsamplers)
        self.to_image = to_image
        self.residual = None
        if residual:
            self.residual = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(in_channels, in_channels, 1))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        require_channels('x', x, self.in_channels)
        for upsampler in self.upsamplers:
            guide = None
            if upsampler.needs_guide:
                s, (height, width) = upsampler.scale_factor, x.shape[-2:]
                guide = F.adaptive_avg_pool2d(image, (s * height, s * width))
            x = upsampler(x, guide)
        if self.residual is not None:
            x = x + 0.1 * self.residual(x)
        if self.to_image and x.shape[-2:] != image.shape[-2:]:
            x = F.interpolate(x, image.shape[-2:], mode='bilinear')
        return x

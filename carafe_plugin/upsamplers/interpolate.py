# SPDX-License-Identifier: Apache-2.0
"""Interpolation without parameters: the stock step of FPN (nearest) and of UperNet (bilinear)."""

import torch.nn.functional as F
from torch import Tensor

from carafe_plugin.ops.tensors import enlarge_nearest

from .base import Upsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('nearest')
class NearestUpsampler(Upsampler):
    """Repeat each pixel ``scale_factor`` times along both axes."""

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return enlarge_nearest(x, self.scale_factor)


@UPSAMPLERS.register_module('bilinear')
class BilinearUpsampler(Upsampler):
    """Interpolate linearly between pixel centres (``align_corners=False``)."""

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return F.interpolate(x, scale_factor=self.scale_factor, mode='bilinear', align_corners=False)

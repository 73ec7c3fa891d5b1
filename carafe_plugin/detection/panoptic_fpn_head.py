# SPDX-License-Identifier: Apache-2.0
"""Panoptic FPN's semantic head (Kirillov et al., CVPR 2019, https://arxiv.org/abs/1901.02446)."""

from typing import Any

from mmdet.models.layers import ConvUpsample
from mmdet.models.seg_heads import PanopticFPNHead
from mmdet.registry import MODELS
from mmengine.model import BaseModule, ModuleList
from torch import Tensor

from carafe_plugin.upsamplers import build_upsampler


@MODELS.register_module()
class UpsamplePanopticFPNHead(PanopticFPNHead):
    """MMDetection's PanopticFPNHead whose x2 steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    Each pyramid level goes up on its own to the finest one's size, one upsampler after each convolution: six
    of them on four levels. An upsampler that needs a guide is refused: the finer pyramid levels have another
    number of channels and have not passed the head's convolutions. As in the stock head, sizes must double
    exactly from level to level (images padded to multiples of 32). With ``bilinear`` the output equals the
    stock class bit for bit. The published Panoptic FPN rows change the neck, not this head.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        *args, **kwargs: as :class:`mmdet.models.seg_heads.PanopticFPNHead`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
    """

    conv_upsample_layers: ModuleList

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if upsample_cfg is not None:
            self.conv_upsample_layers = ModuleList(
                _Branch(layer, upsample_cfg, self.inner_channels) for layer in self.conv_upsample_layers
            )


class _Branch(BaseModule):
    """The convolutions of a stock branch, each of the first ones with an upsampler behind it."""

    def __init__(self, stock: ConvUpsample, upsample_cfg: dict, channels: int) -> None:
        super().__init__()
        self.conv = stock.conv
        self.upsamplers = ModuleList(
            build_upsampler(upsample_cfg, channels) for _ in range(stock.num_upsample)
        )

    def forward(self, x: Tensor) -> Tensor:
        for step, conv in enumerate(self.conv):
            x = conv(x)
            if step < len(self.upsamplers):
                x = self.upsamplers[step](x)
        return x

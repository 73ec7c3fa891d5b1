# SPDX-License-Identifier: Apache-2.0
"""PAFPN (Liu et al., CVPR 2018, https://arxiv.org/abs/1803.01534) with any upsampler in its top-down path."""

from mmdet.models.necks import PAFPN
from mmdet.registry import MODELS
from torch import Tensor, nn

from .fpn import UpsampleFPN


@MODELS.register_module()
class UpsamplePAFPN(UpsampleFPN, PAFPN):
    """MMDetection's PAFPN whose top-down steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    Top-down path, extra levels and guides are those of :class:`UpsampleFPN`, the bottom-up path is the
    stock one. With ``nearest`` every output equals the stock class bit for bit.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        *args, **kwargs: as :class:`mmdet.models.necks.PAFPN`.

    Raises:
        TypeError, ValueError: as :class:`UpsampleFPN`.
    """

    downsample_convs: nn.ModuleList
    pafpn_convs: nn.ModuleList

    def _outputs(self, laterals: list[Tensor]) -> list[Tensor]:
        finest, *outs = super()._outputs(laterals)
        below = finest
        for level, down in enumerate(self.downsample_convs):
            below = outs[level] = outs[level] + down(below)
        return [finest, *(conv(x) for conv, x in zip(self.pafpn_convs, outs, strict=True))]

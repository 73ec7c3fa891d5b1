# SPDX-License-Identifier: Apache-2.0
"""FPN (Lin et al., CVPR 2017, https://arxiv.org/abs/1612.03144), any upsampler, for each toolbox's class."""

from typing import Any

import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from carafe_plugin.upsamplers import build_upsampler, top_down
from carafe_plugin.upsamplers.published import rename_keys

from .levels import require_levels


class UpsampledTopDown(nn.Module):
    """Mixin that makes the top-down steps of a stock FPN class upsamplers; stands before it among the bases.

    The topology is the stock one: an upsampler for each pair of neighbouring backbone levels (three of them
    on ResNet's four), extra levels by pooling or strided convolution. A guided upsampler gets the lateral
    of the finer level. With ``nearest`` every output equals the stock class bit for bit.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        *args, **kwargs: as the stock class.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`; in ``forward``, a ValueError where
            there is not one map for each of ``in_channels``, or a level's size, which is named, is not half
            of the next finer one's, give or take a pixel.
    """

    # Of the stock class.
    in_channels: list[int]
    out_channels: int
    num_outs: int
    start_level: int
    backbone_end_level: int
    lateral_convs: nn.ModuleList
    fpn_convs: nn.ModuleList
    add_extra_convs: str
    relu_before_extra_convs: bool
    upsample_cfg: dict

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # mmengine's ModuleList initialises its members after the neck's own Xavier; torch's would not.
        self.upsamplers = ModuleList()
        if upsample_cfg is not None:
            self.upsamplers.extend(
                build_upsampler(upsample_cfg, self.out_channels, guide_channels=self.out_channels)
                for _ in self.lateral_convs[1:]
            )
            self.upsample_cfg = dict(upsample_cfg)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn backbone maps (N, C_i, H_i, W_i), fine to coarse, into ``num_outs`` maps."""
        if not self.upsamplers:
            return super().forward(inputs)
        require_levels(inputs, self.in_channels)
        used = inputs[self.start_level : self.backbone_end_level]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, used, strict=True)]
        laterals = top_down(laterals, self.upsamplers)
        outs = self._outputs(laterals)

        if not self.add_extra_convs:  # max-pooled levels (Faster and Mask R-CNN)
            while len(outs) < self.num_outs:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
            return tuple(outs)
        sources = dict(on_input=used[-1], on_lateral=laterals[-1], on_output=outs[-1])
        source = sources[self.add_extra_convs]
        for conv in self.fpn_convs[len(outs) :]:  # convolved levels (RetinaNet)
            outs.append(conv(source))
            source = F.relu(outs[-1]) if self.relu_before_extra_convs else outs[-1]
        return tuple(outs)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        if self.upsamplers:  # DySample's and SAPA's detectors
            rename_keys(state_dict, {'upsample_modules.': 'upsamplers.'}, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _outputs(self, laterals: list[Tensor]) -> list[Tensor]:
        """The output maps of the merged backbone levels."""
        return [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]

# SPDX-License-Identifier: Apache-2.0
"""The necks of YOLOX (https://arxiv.org/abs/2107.08430) and RTMDet (https://arxiv.org/abs/2212.07784)."""

from typing import Any

import torch
from mmdet.models.necks import YOLOXPAFPN, CSPNeXtPAFPN
from mmdet.registry import MODELS
from mmengine.model import ModuleList
from torch import Tensor, nn

from carafe_plugin._hosts.levels import require_levels
from carafe_plugin.upsamplers import build_upsampler


class _ConcatPAFPN(nn.Module):
    """What both necks share: maps are upsampled and joined with the finer one along the channels.

    ``upsamplers[N]`` takes level N + 1 to level N, with the finer backbone map as its guide. FreqFusion
    sharpens that map before it is joined.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code. mmdet's YOLOX configs set the stock
            field of that name (``mode`` and ``scale_factor``): drop it with ``_delete_=True``.
        *args, **kwargs: as the stock class.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`; in ``forward``, a ValueError where a
            level's size is not half of the next finer one's, give or take a pixel.
    """

    # Of the stock class.
    in_channels: list[int]
    upsample: nn.Module
    reduce_layers: nn.ModuleList
    top_down_blocks: nn.ModuleList
    downsamples: nn.ModuleList
    bottom_up_blocks: nn.ModuleList
    out_convs: nn.ModuleList

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.upsamplers = ModuleList()
        if upsample_cfg is not None:
            del self.upsample  # the stock interpolation
            self.upsamplers.extend(
                build_upsampler(upsample_cfg, channels, guide_channels=channels)
                for channels in self.in_channels[:-1]
            )

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Turn backbone maps (N, C_i, H_i, W_i), fine to coarse, into as many output maps."""
        if not self.upsamplers:
            return super().forward(inputs)
        require_levels(inputs, self.in_channels)
        merged = list(inputs)
        # The stock lists of layers begin at the coarsest level.
        top_down = zip(self.reduce_layers, self.top_down_blocks, reversed(self.upsamplers), strict=True)
        for level, (reduce, block, upsampler) in zip(range(len(inputs) - 1, 0, -1), top_down, strict=True):
            coarse, fine = reduce(merged[level]), inputs[level - 1]
            merged[level] = coarse
            merged[level - 1] = block(torch.cat(upsampler.pair(coarse, fine), 1))

        outs = merged[:1]
        for down, block, coarse in zip(self.downsamples, self.bottom_up_blocks, merged[1:], strict=True):
            outs.append(block(torch.cat([down(outs[-1]), coarse], 1)))
        return tuple(conv(x) for conv, x in zip(self.out_convs, outs, strict=True))


@MODELS.register_module()
class UpsampleYOLOXPAFPN(_ConcatPAFPN, YOLOXPAFPN):
    """MMDetection's YOLOXPAFPN whose top-down steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    A guided upsampler gets the finer backbone map. With ``nearest`` every output equals the stock class bit
    for bit. Arguments and errors: see :class:`_ConcatPAFPN`.
    """


@MODELS.register_module()
class UpsampleCSPNeXtPAFPN(_ConcatPAFPN, CSPNeXtPAFPN):
    """MMDetection's CSPNeXtPAFPN (RTMDet), in all else as :class:`UpsampleYOLOXPAFPN`."""

# SPDX-License-Identifier: Apache-2.0
"""SegFormer's head (Xie et al., NeurIPS 2021, https://arxiv.org/abs/2105.15203) with any upsampler."""

from typing import Any

import torch
from mmengine.model import ModuleList
from mmseg.models.decode_heads import SegformerHead
from mmseg.registry import MODELS
from torch import Tensor

from carafe_plugin.upsamplers import build_upsampler
from carafe_plugin.upsamplers.published import rename_keys

from ._lift import lift


@MODELS.register_module()
class UpsampleSegformerHead(SegformerHead):
    """MMSegmentation's SegformerHead whose embedded maps go up by x2 steps, as in the papers after CARAFE.

    With MiT's four levels that is six upsamplers: three for the coarsest map, then two, then one, none of
    them shared. The guide of a step is the embedded map of the level that it reaches. The stock head
    interpolates each map at once: ``bilinear`` here is three x2 steps against one x8, equal for the second
    level alone.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        **kwargs: as :class:`mmseg.models.decode_heads.SegformerHead`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`; in ``forward``, a ValueError where a
            level's size is not half of the next finer one's, give or take a pixel.
    """

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # upsamplers[M][N] takes the map of level M + 1 from level N + 1 to level N.
        self.upsamplers = ModuleList()
        if upsample_cfg is not None:
            self.upsamplers.extend(
                ModuleList(
                    build_upsampler(upsample_cfg, self.channels, guide_channels=self.channels)
                    for _ in range(level)
                )
                for level in range(1, len(self.convs))
            )

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # DySample's and SAPA's head counts the steps from the coarsest map and its coarsest step on.
        steps = [(m, n) for m in reversed(range(len(self.upsamplers))) for n in reversed(range(m + 1))]
        names = {f'upsample_modules.{i}.': f'upsamplers.{m}.{n}.' for i, (m, n) in enumerate(steps)}
        rename_keys(state_dict, names, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Turn backbone maps (N, C_i, H_i, W_i), fine to coarse, into logits (N, classes, H_0, W_0)."""
        if not self.upsamplers:
            return super().forward(inputs)
        embedded = [conv(x) for conv, x in zip(self.convs, self._transform_inputs(inputs), strict=True)]
        outs = embedded[:1]
        for x, upsamplers in zip(embedded[1:], self.upsamplers, strict=True):
            guides = embedded[: len(upsamplers)]
            for upsampler, guide in zip(reversed(upsamplers), reversed(guides), strict=True):
                x = lift(upsampler, x, guide)
            outs.append(x)
        return self.cls_seg(self.fusion_conv(torch.cat(outs, 1)))

# SPDX-License-Identifier: Apache-2.0
"""Semantic FPN's head (Kirillov et al., CVPR 2019, https://arxiv.org/abs/1901.02446) with any upsampler."""

from typing import Any

from mmcv.cnn import ConvModule
from mmengine.model import ModuleList
from mmseg.models.decode_heads import FPNHead
from mmseg.registry import MODELS
from torch import Tensor

from carafe_plugin.upsamplers import build_upsampler

from ._lift import lift


@MODELS.register_module()
class UpsampleFPNHead(FPNHead):
    """MMSegmentation's FPNHead whose x2 steps are upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    On strides 4 to 32 these are six, each behind a convolution. The guide of a step is the head's input at
    the resolution that it reaches. With ``bilinear`` the output equals the stock class bit for bit where
    every level is exactly half of the next finer one.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        **kwargs: as :class:`mmseg.models.decode_heads.FPNHead`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`; an upsampler with a guide is refused
            where ``feature_strides`` leave a stride out.
    """

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = dict(zip(self.feature_strides, self.in_channels, strict=True))
        self.upsamplers = ModuleList()
        if upsample_cfg is not None:
            self.upsamplers.extend(
                ModuleList(
                    build_upsampler(upsample_cfg, self.channels, guide_channels=channels.get(stride))
                    for stride in self._steps(level)
                )
                for level in range(len(self.scale_heads))
            )

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """Turn pyramid maps (N, C_i, H_i, W_i), fine to coarse, into logits (N, classes, H_0, W_0)."""
        if not self.upsamplers:
            return super().forward(inputs)
        inputs = self._transform_inputs(inputs)
        guides = dict(zip(self.feature_strides, inputs, strict=True))
        output = self.scale_heads[0](inputs[0])
        for level in range(1, len(inputs)):
            x = inputs[level]
            # Between these convolutions stand the stock interpolations, which have no weights.
            convs = (layer for layer in self.scale_heads[level] if isinstance(layer, ConvModule))
            steps = list(zip(self.upsamplers[level], self._steps(level), strict=True))
            for step, conv in enumerate(convs):
                x = conv(x)
                if step < len(steps):
                    upsampler, stride = steps[step]
                    x = lift(upsampler, x, guides[stride]) if stride in guides else upsampler(x)
            output = output + x
        return self.cls_seg(output)

    def _steps(self, level: int) -> list[int]:
        """The strides that the steps of a level reach, coarse to fine."""
        strides = [self.feature_strides[level]]
        while strides[-1] > self.feature_strides[0]:
            strides.append(strides[-1] // 2)
        return strides[1:]

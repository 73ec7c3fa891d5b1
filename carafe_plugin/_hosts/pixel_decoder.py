# SPDX-License-Identifier: Apache-2.0
"""Pixel decoders of MaskFormer (https://arxiv.org/abs/2107.06278) and Mask2Former (https://arxiv.org/abs/2112.01527).

MMDetection has them, and MMSegmentation wraps its heads: a config of the latter names them with the scope
``mmdet.``.
"""

from typing import Any

from mmdet.models.layers import MSDeformAttnPixelDecoder, PixelDecoder
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.registry import MODELS
from mmengine.model import ModuleList, caffe2_xavier_init
from torch import Tensor

from carafe_plugin.upsamplers import build_upsampler, top_down

from .levels import require_levels


@MODELS.register_module()
class UpsamplePixelDecoder(PixelDecoder):
    """MMDetection's PixelDecoder, an FPN with a convolution after each sum, with any upsampler in it.

    Guides are the laterals. With ``nearest`` the output equals the stock class bit for bit, but for sizes of
    2n + 1. MMSegmentation's MaskFormer needs :class:`carafe_plugin.segmentation.UpsampleMaskFormerHead`
    around it.

    Args:
        feat_channels: channels of all inner maps.
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        *args, **kwargs: as the stock class.

    Raises:
        TypeError, ValueError: as :class:`carafe_plugin.detection.UpsampleFPN`.
    """

    def __init__(
        self,
        in_channels: list[int],
        feat_channels: int,
        *args: Any,
        upsample_cfg: dict | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, feat_channels, *args, **kwargs)
        self.upsamplers = _build(upsample_cfg, feat_channels, self.num_inputs - 1)

    def init_weights(self) -> None:
        """As the stock class, and the upsamplers' own."""
        super().init_weights()
        self.upsamplers.init_weights()

    def forward(self, feats: list[Tensor], batch_img_metas: list[dict]) -> tuple[Tensor, Tensor]:
        """Turn backbone maps, fine to coarse, into the mask feature (N, C, H_0, W_0) and the last map."""
        if not self.upsamplers:
            return super().forward(feats, batch_img_metas)
        require_levels(feats, self.in_channels)
        y = self.last_feat_conv(feats[-1])
        for level in reversed(range(len(self.upsamplers))):
            lateral = self.lateral_convs[level](feats[level])
            y = self.output_convs[level](top_down([lateral, y], [self.upsamplers[level]])[0])
        return self.mask_feature(y), feats[-1]


@MODELS.register_module()
class UpsampleMSDeformAttnPixelDecoder(MSDeformAttnPixelDecoder):
    """MMDetection's MSDeformAttnPixelDecoder with any upsampler in the steps below its encoder.

    On four levels of which three pass the encoder that is one step, from stride 8 to 4. Guides are the
    laterals. With ``bilinear`` the output equals the stock class bit for bit where the coarse map is exactly
    half of the finer one.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code.
        **kwargs: as the stock class.

    Raises:
        TypeError, ValueError: as :class:`carafe_plugin.detection.UpsampleFPN`; ``num_outs`` is not the
            number of encoder levels.
    """

    num_input_levels: int
    strides: list[int]

    def __init__(
        self, *args: Any, upsample_cfg: dict | None = None, feat_channels: int = 256, **kwargs: Any
    ) -> None:
        super().__init__(*args, feat_channels=feat_channels, **kwargs)
        steps = self.num_input_levels - self.num_encoder_levels
        self.upsamplers = _build(upsample_cfg, feat_channels, steps)
        if not self.upsamplers:
            return
        if self.num_outs != self.num_encoder_levels:
            raise ValueError(
                f'num_outs must be the number of encoder levels, {self.num_encoder_levels}, with an '
                f'upsample_cfg, got {self.num_outs}'
            )
        self.in_channels = [c.conv.in_channels for c in (*self.lateral_convs, *reversed(self.input_convs))]
        # The stock forward, given the encoder's levels alone, stops where the steps begin.
        self.num_input_levels = self.num_encoder_levels
        self.strides = self.strides[steps:]
        self.point_generator = MlvlPointGenerator(self.strides)

    def init_weights(self) -> None:
        """As the stock class, which does not see the steps any more, and the upsamplers' own."""
        super().init_weights()
        for conv in (*self.lateral_convs, *self.output_convs):
            caffe2_xavier_init(conv.conv, bias=0)
        self.upsamplers.init_weights()

    def forward(self, feats: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Turn backbone maps, fine to coarse, into the mask feature and the encoder's coarse to fine."""
        steps = len(self.upsamplers)
        if steps:
            require_levels(feats, self.in_channels)
        unused, outs = super().forward(feats[steps:])
        if not steps:
            return unused, outs
        y = outs[-1]
        for level in reversed(range(steps)):
            lateral = self.lateral_convs[level](feats[level])
            y = self.output_convs[level](top_down([lateral, y], [self.upsamplers[level]])[0])
        return self.mask_feature(y), outs


def _build(upsample_cfg: dict | None, channels: int, steps: int) -> ModuleList:
    if upsample_cfg is None:
        return ModuleList()
    return ModuleList(build_upsampler(upsample_cfg, channels, guide_channels=channels) for _ in range(steps))

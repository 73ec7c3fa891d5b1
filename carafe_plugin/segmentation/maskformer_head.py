# SPDX-License-Identifier: Apache-2.0
"""MaskFormer's head (https://arxiv.org/abs/2107.06278) around upsamplers. Needs mmdet."""

from typing import Any

from mmcv.cnn import Conv2d
from mmseg.models.decode_heads import MaskFormerHead
from mmseg.registry import MODELS

from carafe_plugin._hosts.pixel_decoder import UpsamplePixelDecoder


@MODELS.register_module()
class UpsampleMaskFormerHead(MaskFormerHead):
    """MMSegmentation's MaskFormerHead for ``pixel_decoder=dict(type='mmdet.UpsamplePixelDecoder', ...)``.

    The stock head projects the last backbone map for a PixelDecoder, but not for a subclass; this one does,
    under the stock name. In all else it is the stock head.

    Args:
        in_channels: channels of the backbone maps.
        **kwargs: as :class:`mmseg.models.decode_heads.MaskFormerHead`.
    """

    def __init__(
        self, in_channels: list[int], *, enforce_decoder_input_project: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(
            in_channels=in_channels, enforce_decoder_input_project=enforce_decoder_input_project, **kwargs
        )
        if isinstance(self.pixel_decoder, UpsamplePixelDecoder) and (
            self.decoder_embed_dims != in_channels[-1] or enforce_decoder_input_project
        ):
            self.decoder_input_proj = Conv2d(in_channels[-1], self.decoder_embed_dims, kernel_size=1)

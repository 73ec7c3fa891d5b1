# SPDX-License-Identifier: Apache-2.0
"""U-Net (Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597) with any upsampler."""

from typing import Any

import torch
from mmseg.models.backbones import UNet
from mmseg.models.backbones.unet import InterpConv
from mmseg.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from carafe_plugin.upsamplers import Upsampler, build_upsampler


@MODELS.register_module()
class UpsampleInterpConv(InterpConv):
    """MMSegmentation's InterpConv: an upsampler of :data:`carafe_plugin.UPSAMPLERS`, then a 1x1 convolution.

    With ``bilinear`` it equals the stock class bit for bit. A guided upsampler gets the skip connection,
    which only :class:`UpsampleUNet` hands over.

    Args:
        in_channels: channels of the coarse map.
        out_channels: channels of the output, and of the skip connection.
        upsample_cfg: ``dict(type=NAME, ...)``.
        **kwargs: as the stock class; the convolution comes first with ``conv_first=True``.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *args: Any, upsample_cfg: dict, **kwargs: Any
    ) -> None:
        super().__init__(in_channels, out_channels, *args, **kwargs)
        self.conv_first = kwargs.get('conv_first', False)
        channels = out_channels if self.conv_first else in_channels
        upsampler = build_upsampler(upsample_cfg, channels, guide_channels=out_channels)
        self.interp_upsample[int(self.conv_first)] = upsampler

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """Turn (N, in_channels, H, W) into (N, out_channels, 2H, 2W)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, guide, use_reentrant=False)
        return self._forward(x, guide)

    def _forward(self, x: Tensor, guide: Tensor | None) -> Tensor:
        for layer in self.interp_upsample:
            x = layer(x, guide) if isinstance(layer, Upsampler) else layer(x)
        return x


@MODELS.register_module()
class UpsampleUNet(UNet):
    """MMSegmentation's UNet whose decoder goes up by upsamplers of :data:`carafe_plugin.UPSAMPLERS`.

    Each of its up-convolutions is an :class:`UpsampleInterpConv`. Guides are the skip connections. With
    ``bilinear`` every output equals the stock class bit for bit.

    Args:
        upsample_cfg: ``dict(type=NAME, ...)``; None runs the stock code with its default.
        **kwargs: as :class:`mmseg.models.backbones.UNet`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
    """

    def __init__(self, *args: Any, upsample_cfg: dict | None = None, **kwargs: Any) -> None:
        if upsample_cfg is not None:
            kwargs['upsample_cfg'] = dict(type=UpsampleInterpConv, upsample_cfg=upsample_cfg)
        super().__init__(*args, **kwargs)

    def init_weights(self) -> None:
        """As the stock class, whose Kaiming covers every convolution; then the upsamplers' own."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, Upsampler):
                module.init_weights()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Turn images (N, C, H, W) into the decoder's maps, coarse to fine."""
        self._check_input_divisible(x)
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        outs = [x]
        for block, skip in zip(reversed(self.decoder), reversed(skips[:-1]), strict=True):
            guided = isinstance(block.upsample, UpsampleInterpConv)
            x = block.upsample(x, skip) if guided else block.upsample(x)
            x = block.conv_block(torch.cat([skip, x], 1))
            outs.append(x)
        return outs

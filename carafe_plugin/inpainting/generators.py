# SPDX-License-Identifier: Apache-2.0
"""Generators: what fills the hole of an image, by one call contract, with any upsampler in the decoder.

``forward(image, hole)`` takes an image (N, 3, H, W) in [-1, 1] whose hole is 0 and a map (N, 1, H, W) that
is 1 in the hole, and returns a whole image (N, 3, H, W). Any size will do: maps that were rounded up on the
way down are cropped on the way up.
"""

from collections.abc import Mapping

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_positive_int
from carafe_plugin.upsamplers import UPSAMPLERS, NearestUpsampler, build_upsampler, fit

from .partial_conv import PartialConv2d, PartialUpsample


@MODELS.register_module()
class GlobalLocalGenerator(BaseModule):
    """Encoder, dilated neck and decoder of Global&Local, whose decoder has two steps of x2.

    The stock step is a 4x4 transposed convolution that halves the channels, with its norm and ReLU. An
    upsampler of ``upsample_cfg`` keeps the channels, has neither after it, and the convolution behind it
    takes them (our assumption; the CARAFE paper does not say).

    Args:
        base_channels: channels of the first layer; others are multiples of it.
        upsample_cfg: ``dict(type=NAME, ...)``; None is the stock.
        norm_cfg: norm after each convolution but the last.
        act_cfg: activation after each convolution but the last.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`; the upsampler needs a guide.

    Reference: Iizuka et al., Globally and Locally Consistent Image Completion, SIGGRAPH 2017.
    """

    def __init__(
        self,
        base_channels: int = 64,
        upsample_cfg: dict | None = None,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
        act_cfg: dict = dict(type='ReLU'),  # noqa: B006
    ) -> None:
        super().__init__()
        c = require_positive_int('base_channels', base_channels)

        def conv(channels: int, out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> ConvModule:
            padding = kernel // 2 * dilation
            return ConvModule(
                channels, out, kernel, stride, padding, dilation, norm_cfg=norm_cfg, act_cfg=act_cfg
            )

        self.stem = conv(4, c, 5)
        self.down1 = nn.Sequential(conv(c, 2 * c, stride=2), conv(2 * c, 2 * c))
        self.down2 = nn.Sequential(conv(2 * c, 4 * c, stride=2), conv(4 * c, 4 * c), conv(4 * c, 4 * c))
        self.neck = nn.Sequential(*(conv(4 * c, 4 * c, dilation=d) for d in (2, 4, 8, 16)))
        self.before = nn.Sequential(conv(4 * c, 4 * c), conv(4 * c, 4 * c))
        self.upsamplers = ModuleList()  # mmengine's initialises its members last
        widths = (4 * c, 2 * c)
        if upsample_cfg is None:
            layers = dict(conv_cfg=dict(type='deconv'), norm_cfg=norm_cfg, act_cfg=act_cfg)
            self.upsamplers.extend(ConvModule(width, width // 2, 4, 2, 1, **layers) for width in widths)
            widths = (2 * c, c)
        else:
            self._refuse_guided(upsample_cfg)
            self.upsamplers.extend(build_upsampler(upsample_cfg, width) for width in widths)
        self.between = conv(widths[0], 2 * c)
        self.after = nn.Sequential(
            conv(widths[1], max(c // 2, 1)), nn.Conv2d(max(c // 2, 1), 3, 3, padding=1)
        )

    @staticmethod
    def _refuse_guided(cfg: dict) -> None:
        name = cfg.get('type') if isinstance(cfg, Mapping) else None
        cls = UPSAMPLERS.get(name) if isinstance(name, str) else name
        if cls is not None and cls.needs_guide:
            free = ', '.join(other for other in UPSAMPLERS if not UPSAMPLERS.get(other).needs_guide)
            raise ValueError(
                f'upsampler {name!r} needs a guide, and the decoder of GlobalLocalGenerator has no skip '
                f'connections to offer one: use PartialConvUNet, or one of {free}'
            )

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        full = self.stem(torch.cat([image, hole], 1))
        half = self.down1(full)
        sizes = half.shape[-2:], full.shape[-2:]
        x = self.before(self.neck(self.down2(half)))
        x = self.between(fit(self.upsamplers[0](x), sizes[0]))
        x = self.after(fit(self.upsamplers[1](x), sizes[1]))
        return x.clamp(-1, 1)


@MODELS.register_module()
class PartialConvUNet(BaseModule):
    """U-Net of partial convolutions: each step knows which of its pixels are known.

    The skip connection, its holes zero, is the guide of a guided upsampler; the image itself is the guide of
    the last one. Where no valid pixel was seen (the whole image is a hole) the output is 0, mid-grey.

    Args:
        base_channels: channels of the first layer; they double up to eight times that.
        num_stages: number of x2 steps down, and up.
        upsample_cfg: ``dict(type=NAME, ...)`` for every step up; None is the stock, nearest interpolation.
        freeze_encoder_norm: batch norms of the encoder keep their statistics and parameters (second stage
            of the training, where holes would skew them).

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.

    Reference: Liu et al., Image Inpainting for Irregular Holes Using Partial Convolutions, ECCV 2018.
    """

    def __init__(
        self,
        base_channels: int = 64,
        num_stages: int = 7,
        upsample_cfg: dict | None = None,
        freeze_encoder_norm: bool = False,
    ) -> None:
        super().__init__()
        require_positive_int('base_channels', base_channels)
        require_positive_int('num_stages', num_stages)
        self.freeze_encoder_norm = freeze_encoder_norm
        widths = [3, *(base_channels * min(2**i, 8) for i in range(num_stages))]
        sides = [7, 5, 5] + [3] * num_stages
        self.encoder = nn.ModuleList(
            _PartialBlock(widths[i], widths[i + 1], sides[i], stride=2, norm=i > 0, act=nn.ReLU())
            for i in range(num_stages)
        )
        self.upsamplers = ModuleList()
        self.decoder = nn.ModuleList()
        for i in reversed(range(num_stages)):
            inner, skip = widths[i + 1], widths[i]
            up = (
                NearestUpsampler(inner)
                if upsample_cfg is None
                else build_upsampler(upsample_cfg, inner, guide_channels=skip)
            )
            self.upsamplers.append(PartialUpsample(up))
            act = nn.LeakyReLU(0.2) if i else nn.Identity()
            self.decoder.append(_PartialBlock((inner, skip), skip, 3, norm=i > 0, act=act))
        if freeze_encoder_norm:
            for module in self._encoder_norms():
                module.requires_grad_(False).eval()

    def _encoder_norms(self) -> list[nn.Module]:
        return [m for m in self.encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> 'PartialConvUNet':
        super().train(mode)
        if self.freeze_encoder_norm:
            for module in self._encoder_norms():
                module.eval()
        return self

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        valid = 1 - hole
        skips = [(image * valid, valid)]
        for block in self.encoder:
            skips.append(block(*skips[-1]))
        x, mask = skips.pop()
        for upsample, block in zip(self.upsamplers, self.decoder, strict=True):
            skip, skip_mask = skips.pop()
            guide = skip * skip_mask if upsample.upsampler.needs_guide else None
            x, mask = upsample(x, mask, skip.shape[-2:], guide)
            x, mask = block(torch.cat([x, skip], 1), torch.cat([mask, skip_mask], 1))
        return x


class _PartialBlock(nn.Module):
    def __init__(
        self,
        channels: int | tuple[int, ...],
        out: int,
        kernel: int,
        *,
        norm: bool,
        act: nn.Module,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv = PartialConv2d(channels, out, kernel, stride, bias=not norm)
        self.norm = nn.BatchNorm2d(out) if norm else nn.Identity()
        self.act = act

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, mask = self.conv(x, mask)
        return self.act(self.norm(x)), mask

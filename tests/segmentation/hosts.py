# SPDX-License-Identifier: Apache-2.0
"""Each segmentation host at a small size: how it and its stock class are built, and what goes in."""

from collections.abc import Callable
from dataclasses import dataclass, field

import mmdet.models  # noqa: F401  (registers what MaskFormer's configs name)
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import Tensor, nn

import carafe_plugin.segmentation  # noqa: F401

CHANNELS = [8, 16, 24, 32]
WIDTH = 64  # of the inner maps; the groups of every upsampler divide it
HEAD = dict(num_classes=5, channels=WIDTH, norm_cfg=dict(type='BN'), dropout_ratio=0)
LEVELS = dict(in_channels=CHANNELS, in_index=[0, 1, 2, 3], align_corners=False, **HEAD)
ENCODER = dict(
    num_layers=1,
    layer_cfg=dict(
        self_attn_cfg=dict(embed_dims=WIDTH, num_heads=2, num_levels=3, num_points=2),
        ffn_cfg=dict(embed_dims=WIDTH, feedforward_channels=32),
    ),
)
METAS = [dict(img_shape=(64, 96), batch_input_shape=(64, 96))] * 2


def pyramid(height: int = 64, width: int = 96) -> list[Tensor]:
    """Maps of strides 4 to 32, sizes rounded up as in ResNet."""
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    return [torch.rand(2, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@dataclass
class Host:
    """A host class and its place for ``upsample_cfg``.

    ``same`` is the upsampler with which the host equals its stock class; ``count`` the number of upsamplers.
    """

    kind: str
    count: int
    same: str | None
    cfg: dict = field(default_factory=lambda: LEVELS)
    scope: str = 'mmseg.'
    has_guide: bool = True
    inputs: Callable[..., object] = pyramid
    extra: tuple = ()
    wrap: Callable[[dict], dict] = lambda cfg: cfg

    def build(self, upsample_cfg: dict | None = None, seed: int = 0) -> nn.Module:
        """The host, initialised."""
        return self._build(f'{self.scope}Upsample{self.kind}', seed, upsample_cfg=self._wrapped(upsample_cfg))

    def stock(self, seed: int = 0) -> nn.Module:
        """The stock class, initialised."""
        return self._build(self.scope + self.kind, seed)

    def run(self, model: nn.Module, inputs: object, training: bool = False) -> list[Tensor]:
        """All outputs, flat."""
        model.train(training)
        outs = model(inputs, *self.extra)
        flat = []
        for out in [outs] if isinstance(outs, Tensor) else outs:
            flat += [out] if isinstance(out, Tensor) else out
        return flat

    def _wrapped(self, upsample_cfg: dict | None) -> dict | None:
        return None if upsample_cfg is None else self.wrap(upsample_cfg)

    def _build(self, kind: str, seed: int, **kwargs) -> nn.Module:
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope('mmseg'):
            model = MODELS.build(ConfigDict(type=kind, **self.cfg, **kwargs))
        model.init_weights()
        return model


def image(height: int = 64, width: int = 96) -> Tensor:
    """A batch of images."""
    return torch.rand(2, 3, height, width)


def place(name: str) -> Callable[[dict], dict]:
    """Sets one place of UPerHead."""
    return lambda cfg: {name: cfg}


HOSTS = dict(
    # A map pooled to one pixel is constant: where it is sampled changes nothing, and offsets learn nothing.
    uper_ppm=Host('UPerHead', 4, None, cfg=dict(pool_scales=(2, 3, 4, 6), **LEVELS), wrap=place('ppm')),
    uper_fpn=Host('UPerHead', 3, 'bilinear', wrap=place('fpn')),
    uper_fusion=Host('UPerHead', 3, None, wrap=place('fusion')),
    segformer=Host('SegformerHead', 6, None),
    fpn=Host('FPN', 3, 'nearest', cfg=dict(in_channels=CHANNELS, out_channels=WIDTH, num_outs=4)),
    fpn_head=Host('FPNHead', 6, 'bilinear', cfg=dict(feature_strides=[4, 8, 16, 32], **LEVELS)),
    setr_up=Host(
        'SETRUPHead',
        2,
        'bilinear',
        cfg=dict(in_channels=32, in_index=3, num_convs=2, up_scale=2, align_corners=False, **HEAD),
        has_guide=False,
    ),
    unet=Host(
        'UNet',
        2,
        'bilinear',
        cfg=dict(
            base_channels=32,
            num_stages=3,
            strides=(1, 1, 1),
            enc_num_convs=(1, 1, 1),
            dec_num_convs=(1, 1),
            downsamples=(True, True),
            enc_dilations=(1, 1, 1),
            dec_dilations=(1, 1),
        ),
        inputs=image,
    ),
    maskformer=Host(
        'PixelDecoder',
        3,
        'nearest',
        cfg=dict(in_channels=CHANNELS, feat_channels=WIDTH, out_channels=8),
        scope='mmdet.',
        extra=(METAS,),
    ),
    mask2former=Host(
        'MSDeformAttnPixelDecoder',
        1,
        'bilinear',
        cfg=dict(
            in_channels=CHANNELS,
            feat_channels=WIDTH,
            out_channels=8,
            encoder=ENCODER,
            positional_encoding=dict(num_feats=WIDTH // 2, normalize=True),
        ),
        scope='mmdet.',
    ),
)

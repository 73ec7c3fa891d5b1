# SPDX-License-Identifier: Apache-2.0
"""ResNet (He et al., CVPR 2016, https://arxiv.org/abs/1512.03385) with any downsampler."""

from collections import OrderedDict
from typing import Any

from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS
from mmengine.model import Sequential
from torch import nn

from carafe_plugin.downsamplers import build_downsampler


@MODELS.register_module()
class CarafeResNet(ResNet):
    """MMDetection's ResNet whose max-pool and stage strides are downsamplers of one kind.

    The stem's max-pool is replaced, and a stage of stride s starts with a downsampler in place of its strided
    convolutions, which keep their shapes: a stock checkpoint loads, the downsamplers' own weights
    (``maxpool.*`` and ``layerN.downsampler.*``) apart. The 7x7 convolution keeps its stride. Freezing a stage
    freezes its downsampler.

    Experimental: CARAFE++ reports such a backbone, but not which layers it replaces. This placement is the
    project's own, no published figure belongs to it, and it may change.

    Args:
        downsample_cfg: ``dict(type=NAME, ...)`` with NAME of :data:`carafe_plugin.downsamplers.DOWNSAMPLERS`;
            None builds the stock network.
        *args, **kwargs: as :class:`mmdet.models.backbones.ResNet`.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.downsamplers.build_downsampler`.
        ValueError: ``avg_down`` is set, whose shortcuts have a pooling of their own.
    """

    def __init__(
        self, *args: Any, downsample_cfg: dict | None = None, avg_down: bool = False, **kwargs: Any
    ) -> None:
        if downsample_cfg is not None and avg_down:
            raise ValueError('avg_down pools in the shortcuts: set avg_down=False to use downsample_cfg')
        self._downsample_cfg = downsample_cfg  # read by the methods below, which the stock constructor calls
        super().__init__(*args, avg_down=avg_down, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        if self._downsample_cfg is not None:
            self.maxpool = build_downsampler(self._downsample_cfg, stem_channels)

    def make_res_layer(self, *, inplanes: int, stride: int, **kwargs: Any) -> nn.Module:
        """Pack the blocks of a stage, after their downsampler where the stage has a stride."""
        if self._downsample_cfg is None or stride == 1:
            return super().make_res_layer(inplanes=inplanes, stride=stride, **kwargs)
        blocks = super().make_res_layer(inplanes=inplanes, stride=1, **kwargs)
        downsampler = build_downsampler(self._downsample_cfg, inplanes, stride)
        return Sequential(OrderedDict(downsampler=downsampler, **dict(blocks.named_children())))

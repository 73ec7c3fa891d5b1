# SPDX-License-Identifier: Apache-2.0
"""A whole segmentor as a function of images, in a form that ONNX takes at any size."""

import copy
from typing import Any

import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor, nn

from carafe_plugin._hosts.export import Preprocess
from carafe_plugin.ops.tensors import adaptive_avg_pool


class _AdaptivePool(nn.Module):
    """``nn.AdaptiveAvgPool2d``, which ONNX does not have for every size, by :func:`adaptive_avg_pool`."""

    def __init__(self, output_size: int | tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return adaptive_avg_pool(x, self.output_size)


class Logits(nn.Module):
    """Normalised images (N, 3, H, W) to the decode head's logits (N, classes, H/4, W/4), ready for export.

    Adaptive poolings are exported as matrix products, equal but for rounding.

    Args:
        model: a segmentor of MMSegmentation, such as ``mmseg.apis.init_model`` gives.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        model = copy.deepcopy(model)
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.AdaptiveAvgPool2d):
                    setattr(module, name, _AdaptivePool(child.output_size))  # type: ignore[arg-type]
        self.model = model.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images, mode='tensor')


class LabelMap(nn.Module):
    """RGB images (N, 3, H, W) of 0..255, float, to classes of pixels (N, H, W) of int64, ready for export.

    Normalisation, padding and the enlarging of the logits are inside. ``torch.onnx.export`` takes it with
    ``dynamo=False``.

    Args:
        model: an ``EncoderDecoder`` of MMSegmentation whose images are seen whole, not in windows.

    Raises:
        TypeError: the model, or its decode head, predicts in another way.
        ValueError: ``test_cfg.mode`` is not ``'whole'``, or there is a single class.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        head = getattr(model, 'decode_head', None)
        own = type(head).__dict__
        if type(model) is not EncoderDecoder or not isinstance(head, BaseDecodeHead) or 'predict' in own:
            raise TypeError(
                f'{type(model).__name__} with a {type(head).__name__} cannot be exported whole, expected an '
                'EncoderDecoder whose head predicts one map of logits'
            )
        if model.test_cfg.get('mode', 'whole') != 'whole':
            raise ValueError(f"test_cfg.mode must be 'whole', got {model.test_cfg.mode!r}")
        if model.out_channels < 2:
            raise ValueError(f'decode_head.out_channels must be at least 2, got {model.out_channels}')
        self.preprocess = Preprocess(model.data_preprocessor)
        self.logits = Logits(model)
        self.align_corners = model.align_corners
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        prepared = self.preprocess(images)
        logits = F.interpolate(
            self.logits(prepared), prepared.shape[2:], mode='bilinear', align_corners=self.align_corners
        )
        return logits[..., : images.shape[2], : images.shape[3]].argmax(1)

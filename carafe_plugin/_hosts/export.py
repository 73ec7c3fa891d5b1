# SPDX-License-Identifier: Apache-2.0
"""What stands before the backbone in the graph of a whole model."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Preprocess(nn.Module):
    """A ``data_preprocessor``'s work on test images: order of the channels, normalisation, padding.

    RGB images (N, 3, H, W) of 0..255, float, to what the backbone takes, (N, 3, H', W').

    Args:
        data_preprocessor: ``DetDataPreprocessor``, ``SegDataPreProcessor`` or ``ImgDataPreprocessor``,
            of a model whose images are loaded as BGR, the toolboxes' default.

    Raises:
        ValueError: it pads to a fixed size.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, data_preprocessor: Any) -> None:
        super().__init__()
        own = data_preprocessor
        # The two toolboxes name one thing differently.
        to_rgb = getattr(own, '_channel_conversion', None) or getattr(own, 'channel_conversion', False)
        self.reverse = not to_rgb
        self.normalise = bool(getattr(own, '_enable_normalize', False))
        if self.normalise:
            self.register_buffer('mean', own.mean.detach().clone())
            self.register_buffer('std', own.std.detach().clone())
        self.divisor = getattr(own, 'pad_size_divisor', 1)
        self.pad_value = getattr(own, 'pad_value', getattr(own, 'pad_val', 0))
        if test_cfg := getattr(own, 'test_cfg', None):
            if test_cfg.get('size'):
                raise ValueError(
                    f'data_preprocessor pads to the size {test_cfg["size"]}, expected a size_divisor'
                )
            self.divisor = test_cfg.get('size_divisor') or 1

    def forward(self, images: Tensor) -> Tensor:
        if self.reverse:
            images = images.flip(1)
        if self.normalise:
            images = (images - self.mean) / self.std
        if self.divisor > 1:
            height, width = images.shape[-2:]
            right, bottom = -width % self.divisor, -height % self.divisor
            images = F.pad(images, (0, right, 0, bottom), value=self.pad_value)
        return images


def size_of(images: Tensor) -> Tensor:  # [N, C, H, W] -> [W, H]
    """Width and height in the dtype of the images, which an exported graph computes anew."""
    height, width = images.shape[-2:]
    return torch.stack([torch.as_tensor(width), torch.as_tensor(height)]).to(images)

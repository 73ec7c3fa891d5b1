# SPDX-License-Identifier: Apache-2.0
"""Discriminators: ``forward(image, hole)`` scores whether the hole was filled or photographed."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from carafe_plugin.ops.arguments import require_positive_int


@MODELS.register_module()
class PatchDiscriminator(BaseModule):
    """One score for each patch of the image; patches that see no hole do not count.

    Spectrally normalised 5x5 convolutions of stride 2. The CARAFE paper trains with one PatchGAN
    discriminator on the inpainted region; layers and normalisation are those of free-form inpainting.

    Args:
        base_channels: channels of the first layer; they double up to four times that.
        num_layers: number of convolutions; a patch grid of 1 / 2**num_layers of the image's side.

    Shape: scores (P,) of the patches whose part of the image holds a pixel of the hole.

    Reference: Yu et al., Free-Form Image Inpainting with Gated Convolution, ICCV 2019.
    """

    def __init__(self, base_channels: int = 64, num_layers: int = 6) -> None:
        super().__init__()
        require_positive_int('num_layers', num_layers)
        width = require_positive_int('base_channels', base_channels)
        layers, channels = [], 4
        for i in range(num_layers):
            out = width * min(2**i, 4)
            layers += [spectral_norm(nn.Conv2d(channels, out, 5, 2, 2)), nn.LeakyReLU(0.2)]
            channels = out
        self.layers = nn.Sequential(*layers[:-1])  # the last channels are scores, none rectified

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        scores = self.layers(torch.cat([image, hole], 1))
        counts = F.adaptive_max_pool2d(hole, scores.shape[-2:]) > 0
        return scores[counts.expand_as(scores)]


@MODELS.register_module()
class GlobalLocalDiscriminator(BaseModule):
    """One score per image, from the whole of it and from a window around the hole.

    Args:
        image_size: side of the square images, in pixels.
        local_size: side of the window, in pixels; its centre is that of the hole's bounding box, moved
            where it would leave the image.
        base_channels: channels of the first layer; they double up to eight times that.
        norm_cfg: norm after each convolution.

    Shape: scores (N,).

    Raises:
        ValueError: ``local_size`` exceeds ``image_size``; an image has another size.

    Reference: Iizuka et al., Globally and Locally Consistent Image Completion, SIGGRAPH 2017.
    """

    def __init__(
        self,
        image_size: int = 256,
        local_size: int = 128,
        base_channels: int = 64,
        norm_cfg: dict | None = dict(type='BN'),  # noqa: B006
    ) -> None:
        super().__init__()
        if local_size > image_size:
            raise ValueError(f'local_size must be at most image_size={image_size}, got {local_size}')
        self.image_size, self.local_size = image_size, local_size
        features = 16 * require_positive_int('base_channels', base_channels)

        def branch(size: int, layers: int) -> nn.Sequential:
            modules, channels = [], 3
            for i in range(layers):
                out = base_channels * min(2**i, 8)
                modules.append(ConvModule(channels, out, 5, 2, 2, norm_cfg=norm_cfg))
                channels, size = out, (size + 1) // 2
            return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * size**2, features), nn.ReLU())

        self.of_image = branch(image_size, 6)
        self.of_window = branch(local_size, 5)
        self.score = nn.Linear(2 * features, 1)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        if image.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f'GlobalLocalDiscriminator was built for image_size={self.image_size}, '
                f'got images of {tuple(image.shape[-2:])}'
            )
        windows = torch.stack(
            [
                one[:, top : top + self.local_size, left : left + self.local_size]
                for one, (top, left) in zip(image, map(self._corner, hole), strict=True)
            ]
        )
        features = torch.cat([self.of_image(image), self.of_window(windows)], 1)
        return self.score(features).squeeze(1)

    def _corner(self, hole: Tensor) -> Sequence[int]:
        corner = []
        for along in (hole.amax(dim=(0, 2)), hole.amax(dim=(0, 1))):  # rows, columns
            where = along.nonzero().flatten()
            middle = (int(where[0]) + int(where[-1]) + 1) // 2 if len(where) else self.image_size // 2
            corner.append(min(max(middle - self.local_size // 2, 0), self.image_size - self.local_size))
        return corner

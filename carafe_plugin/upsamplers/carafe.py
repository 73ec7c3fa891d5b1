# SPDX-License-Identifier: Apache-2.0
"""CARAFE: Wang et al., Content-Aware ReAssembly of FEatures, ICCV 2019, https://arxiv.org/abs/1905.02188."""

from torch import Tensor, nn

from carafe_plugin.ops import carafe, carafe_softmax
from carafe_plugin.ops.arguments import (
    require_choice,
    require_divisible,
    require_odd_int,
    require_positive_int,
)
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import pixel_shuffle, unflatten

from .base import Upsampler
from .build import UPSAMPLERS

NORMALIZERS = ('softmax', 'sigmoid', 'sigmoid_normalized')


@UPSAMPLERS.register_module('carafe')
class CARAFE(Upsampler):
    """Upsample with a kernel per output pixel, predicted from the content around it.

    A 1x1 convolution compresses the channels, a second one predicts the kernels, and
    :func:`carafe_plugin.ops.carafe_softmax` normalises and applies them. Parameter names, shapes and the
    initialisation are those of the published models (``mmcv.ops.CARAFEPack``), whose weights load.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        up_kernel: side k of the reassembly kernels, in input pixels; odd.
        up_group: number G of channel groups, each with kernels of its own; divides C.
        encoder_kernel: side of the kernel-predicting convolution; odd. The paper takes ``up_kernel - 2``.
        encoder_dilation: dilation of that convolution.
        compressed_channels: channels between the two convolutions; None leaves the first one out.
        normalizer: how the predicted values become a kernel: ``softmax`` over its entries, ``sigmoid`` of
            each, or ``sigmoid_normalized``, which divides the sigmoids by their sum.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 74,148 parameters at C = 256 and the defaults.

    Raises:
        TypeError, ValueError: an argument is not a positive int, a kernel side is even, C is not
            divisible by G, or the normaliser is unknown.

    Example:
        >>> import torch
        >>> from carafe_plugin.upsamplers import CARAFE
        >>> CARAFE(64)(torch.rand(2, 64, 10, 12)).shape
        torch.Size([2, 64, 20, 24])
    """

    channel_compressor: nn.Module

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int | None = 64,
        normalizer: str = 'softmax',
    ) -> None:
        super().__init__(in_channels, scale_factor)
        self.up_kernel = require_odd_int('up_kernel', up_kernel)
        self.up_group = up_group
        self.normalizer = require_choice('normalizer', normalizer, NORMALIZERS)
        require_divisible('in_channels', in_channels, 'up_group', up_group)
        require_odd_int('encoder_kernel', encoder_kernel)
        require_positive_int('encoder_dilation', encoder_dilation)
        if compressed_channels is None:
            compressed_channels, self.channel_compressor = in_channels, nn.Identity()
        else:
            require_positive_int('compressed_channels', compressed_channels)
            self.channel_compressor = nn.Conv2d(in_channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            scale_factor**2 * up_kernel**2 * up_group,
            encoder_kernel,
            padding=(encoder_kernel - 1) * encoder_dilation // 2,
            dilation=encoder_dilation,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform compressor; encoder N(0, 0.001), so that kernels start near a plain mean."""
        init_conv(self.channel_compressor)
        init_conv(self.content_encoder, std=0.001)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        sizes = self.up_kernel, self.up_group, self.scale_factor
        if self.normalizer == 'softmax':  # in one pass with the normalisation
            return carafe_softmax(x, self._logits(x), *sizes)
        return carafe(x, self.kernels(x), *sizes)

    def kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The masks (N, G*k*k, s*H, s*W) that reassemble ``x``: kernels after the normaliser."""
        logits = pixel_shuffle(self._logits(x), self.scale_factor)
        logits = unflatten(logits, 1, (self.up_group, -1))
        masks = logits.softmax(2) if self.normalizer == 'softmax' else logits.sigmoid()
        if self.normalizer == 'sigmoid_normalized':
            masks = masks / masks.sum(2, keepdim=True)
        return masks.flatten(1, 2)

    def _logits(self, x: Tensor) -> Tensor:
        return self.content_encoder(self.channel_compressor(x))

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, up_kernel={self.up_kernel}, up_group={self.up_group}'

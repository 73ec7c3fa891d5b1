# SPDX-License-Identifier: Apache-2.0
"""A2U: Dai et al., Learning Affinity-Aware Upsampling for Deep Image Matting, CVPR 2021, arXiv:2011.14288."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops import carafe
from carafe_plugin.ops._checks import ints
from carafe_plugin.ops.reference import pixel_shuffle

from .base import GuidedUpsampler, require_scale_factor
from .build import UPSAMPLERS

KERNEL = 3  # side of the reassembly kernels
WINDOW = 6  # side of the predicted convolutions


@UPSAMPLERS.register_module('a2u')
class A2U(GuidedUpsampler):
    """Upsample with kernels from second-order features of the guide: a low-rank bilinear form of each window.

    Two 6x6 convolutions, shared by all channels, are predicted from the guide pooled to 6x6 and run over it
    at stride 2, each followed by group norm and leaky ReLU. Their inner product over channels, divided by
    the root of C, is one affinity per input pixel. It is spread over the 4 * 9 entries of the sub-pixels'
    kernels by factors predicted from the global mean of the guide; pixel-shuffle, sigmoid, then softmax
    over 9 entries, as in the released code, and CARAFE's reassembly of the map.

    These are that code's settings (rank 1, shared channels, kernel 3, window 6). Its second projection, for a
    downsampling step, is left out: 10,790 parameters here, 20,042 with it; both kinds are in the published
    tables. Where C is no multiple of 32, the norm has as many groups as their greatest common divisor.

    It does not export to ONNX at sizes left open: pooling to 6x6 and a convolution per image need them.

    Args:
        in_channels: channels of the map.
        scale_factor: 2, for which the kernels are defined.
        guide_channels: channels C of the finer map; None takes ``in_channels``.

    Shape:
        ``x`` (N, in_channels, H, W), ``guide`` (N, C, 2*H, 2*W); returns (N, in_channels, 2*H, 2*W). 10,790
        parameters at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``scale_factor`` is not 2; in the calls,
            see :meth:`GuidedUpsampler.match_guide`.
    """

    def __init__(self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        require_scale_factor('a2u', scale_factor, only=2)
        channels = self.guide_channels
        self.windows = nn.Conv2d(channels, 2, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(32, channels), channels) for _ in range(2))
        self.spread = nn.Conv2d(channels, 4 * KERNEL**2, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """PyTorch's own: the released code sets none."""
        for layer in (self.windows, self.spread, *self.norms):
            layer.reset_parameters()

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return carafe(x, self.kernels(x, guide), KERNEL, 1, 2)

    def kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The normalised kernels (N, 9, 2*H, 2*W) that reassemble ``x``."""
        guide = self.match_guide(x, guide)
        windows = self.windows(F.adaptive_avg_pool2d(guide, WINDOW))  # [N, 2, 6, 6]
        u, v = (
            F.leaky_relu(norm(_convolve(guide, window)))
            for norm, window in zip(self.norms, windows.unbind(1), strict=True)
        )
        affinity = (u * v).sum(1, keepdim=True) / math.sqrt(self.guide_channels)  # [N, 1, H, W]
        logits = affinity * self.spread(F.adaptive_avg_pool2d(guide, 1))  # [N, 36, H, W]
        return pixel_shuffle(logits, 2).sigmoid().softmax(1)


def _convolve(guide: Tensor, windows: Tensor) -> Tensor:  # [N, C, 2*H, 2*W], [N, 6, 6] -> [N, C, H, W]
    """Convolve every channel of an image with the image's own window, at stride 2."""
    images = ints(guide.shape)[0]
    if images == 0:  # no convolution has zero groups; the sum keeps the windows in the graph
        return guide[..., ::2, ::2] + windows.sum()
    # Images as channels and channels as images: one kernel per group is one per image.
    kernels = windows[:, None].to(guide.dtype)
    return F.conv2d(guide.transpose(0, 1), kernels, stride=2, padding=2, groups=images).transpose(0, 1)

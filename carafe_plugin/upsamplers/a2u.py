# SPDX-License-Identifier: Apache-2.0
"""A2U: Dai et al., Learning Affinity-Aware Upsampling for Deep Image Matting, CVPR 2021, arXiv:2011.14288."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops import carafe, carafe_downsample
from carafe_plugin.ops.arguments import require_scale_factor
from carafe_plugin.ops.tensors import adaptive_avg_pool, pixel_shuffle

from .base import GuidedUpsampler
from .build import UPSAMPLERS
from .group_norm import GroupNorm

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

    # The two predicting convolutions are one here.
    published_names = (
        ('kernel_gen.bnu.0.', 'norms.0.'),
        ('kernel_gen.bnv.0.', 'norms.1.'),
        ('kernel_gen.bconv_UP.1.', 'spread.'),
        ('kernel_gen.bconv_DP.', None),
        ('kernel_gen.windows.', 'windows.'),
    )

    def __init__(self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        require_scale_factor('a2u', scale_factor, only=2)
        channels = self.guide_channels
        self.windows = nn.Conv2d(channels, 2, 1)
        self.norms = nn.ModuleList(GroupNorm(channels) for _ in range(2))
        self.spread = nn.Conv2d(channels, 4 * KERNEL**2, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """PyTorch's own: the released code sets none."""
        for layer in (self.windows, self.spread, *self.norms):
            layer.reset_parameters()

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return carafe(x, self.kernels(x, guide), KERNEL, 1, 2)

    def kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The masks (N, 9, 2*H, 2*W) that reassemble ``x``."""
        guide = self.match_guide(x, guide)
        windows = self.windows(adaptive_avg_pool(guide, WINDOW))  # [N, 2, 6, 6]
        u, v = (
            F.leaky_relu(norm(_convolve(guide, window, x.shape[-2:])))
            for norm, window in zip(self.norms, windows.unbind(1), strict=True)
        )
        affinity = (u * v).sum(1, keepdim=True) / math.sqrt(self.guide_channels)  # [N, 1, H, W]
        logits = affinity * self.spread(F.adaptive_avg_pool2d(guide, 1))  # [N, 36, H, W]
        return pixel_shuffle(logits, 2).sigmoid().softmax(1)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for name in ('weight', 'bias'):
            parts = [f'{prefix}kernel_gen.bconv_{part}.1.{name}' for part in 'UV']
            if all(part in state_dict for part in parts):
                windows = torch.cat([state_dict.pop(part) for part in parts])
                state_dict[f'{prefix}kernel_gen.windows.{name}'] = windows
        super()._load_from_state_dict(state_dict, prefix, *args)


def _convolve(guide: Tensor, window: Tensor, size: torch.Size) -> Tensor:  # [N, C, 2*H, 2*W] to [N, C, H, W]
    """Convolve every channel of an image with the image's own window [N, 6, 6], at stride 2.

    As CARAFE++'s downsampling with the same kernel for all pixels. Kernels have a centre, so the window is
    made 7 x 7 by a row and a column of zeros. A convolution with a group for each image would not do: its
    exported graph serves one number of images only.
    """
    masks = F.pad(window, (1, 0, 1, 0)).flatten(1)[..., None, None]
    return carafe_downsample(guide, masks.expand(-1, -1, *size), WINDOW + 1, 1, 2)

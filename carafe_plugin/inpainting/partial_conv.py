# SPDX-License-Identifier: Apache-2.0
"""Partial convolution (Liu et al., ECCV 2018, https://arxiv.org/abs/1804.07723) and its upsampling step.

Masks here are 1 where a pixel is valid and 0 where nothing is known yet. A map carries one mask for all of
its channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops import carafe
from carafe_plugin.upsamplers import BilinearUpsampler, NearestUpsampler, Upsampler, fit

# A reassembled pixel that takes less than this share of its weight from valid pixels stays a hole. What is
# above is a mean of valid pixels, with bounded gradients, however small the share.
MIN_WEIGHT = 1e-6


class PartialConv2d(nn.Module):
    """Convolve valid pixels alone, and tell which outputs saw one.

    ``out = (weight * (x . mask)) . (window size / valid values in the window) + bias`` where the window
    holds a valid value, else 0. Padding counts as invalid, as in the authors' code: an all-ones mask gives
    the ordinary convolution but at padded borders, where the sum is scaled up.

    Args:
        in_channels: channels of the input; or of each of several maps that are concatenated, each of which
            has a mask of its own.
        out_channels: channels of the output.
        kernel_size: side of the window, in pixels.
        stride: step of the window, in pixels.
        bias: whether a learned offset is added to valid outputs.

    Shape:
        ``x`` (N, sum of in_channels, H, W) and ``mask`` (N, number of maps, H, W); returns
        (N, out_channels, H', W') and its mask (N, 1, H', W') with H' = ceil(H / stride).
    """

    window: Tensor

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        self.padding = kernel_size // 2
        self.conv = nn.Conv2d(
            sum(self.in_channels), out_channels, kernel_size, stride, self.padding, bias=bias
        )
        counts = torch.tensor(self.in_channels, dtype=torch.float32).view(1, -1, 1, 1)
        self.register_buffer('window', counts.repeat(1, 1, kernel_size, kernel_size), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        conv = self.conv
        # 16 bits could not count the values of a window.
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            seen = F.conv2d(mask.to(self.window.dtype), self.window, None, conv.stride, self.padding)
            seen = seen.round()  # Winograd and FFT, which a GPU may take, leave a trace where it is 0
            valid = (seen > 0).to(seen.dtype)
            ratio = valid * self.window.sum() / seen.clamp(min=1)
        spread = [m.expand(-1, c, -1, -1) for m, c in zip(mask.split(1, 1), self.in_channels, strict=True)]
        out = F.conv2d(x * torch.cat(spread, 1), conv.weight, None, conv.stride, self.padding)
        out = out * ratio.to(out.dtype)
        valid = valid.to(out.dtype)
        if conv.bias is not None:
            out = out + conv.bias.to(out.dtype).view(-1, 1, 1) * valid
        return out, valid


class PartialUpsample(nn.Module):
    """Upsample a map together with its mask.

    - An upsampler with kernels (a method ``kernels(x, guide)``) reassembles the mask by the kernels of the
      map, and the map is divided by it: the partial convolution of those kernels. Pixels that take less
      than a millionth of their weight from valid ones stay holes.
    - Interpolation is treated alike. Nearest interpolation repeats both, which is the stock step.
    - Any other upsampler sees the map with zeros in its holes; the mask is repeated.

    Args:
        upsampler: what enlarges the map.

    Shape:
        ``x`` (N, C, H, W), ``mask`` (N, 1, H, W) and, where the upsampler needs one, ``guide``
        (N, C', h, w); ``size`` (h, w) of the result, which is fitted as by
        :func:`carafe_plugin.upsamplers.fit`. Returns the map (N, C, h, w) and its mask (N, 1, h, w).
    """

    def __init__(self, upsampler: Upsampler) -> None:
        super().__init__()
        self.upsampler = upsampler

    def init_weights(self) -> None:
        self.upsampler.init_weights()

    def forward(
        self, x: Tensor, mask: Tensor, size: Sequence[int], guide: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        up, scale = self.upsampler, self.upsampler.scale_factor
        x = x * mask
        if hasattr(up, 'kernels'):
            groups = getattr(up, 'up_group', 1)
            kernels = up.enter(up.kernels, x, guide)  # type: ignore[arg-type]
            side = math.isqrt(kernels.shape[1] // groups)
            out = carafe(x, kernels, side, groups, scale)
            dtype = torch.promote_types(kernels.dtype, torch.float32)
            mask = mask.to(dtype).expand(-1, groups, -1, -1)
            kernels = kernels.to(dtype)
            weight = carafe(mask, kernels, side, groups, scale)
            weight = weight / kernels.unflatten(1, (groups, -1)).sum(2)  # not every normaliser makes it 1
        elif isinstance(up, (NearestUpsampler, BilinearUpsampler)):
            out, weight = up(x), up(mask)
        else:
            out = up(x, guide)
            weight = F.interpolate(mask, scale_factor=scale, mode='nearest')
            return fit(out, size, scale), fit(weight, size, scale)
        valid = (weight.amin(1, keepdim=True) >= MIN_WEIGHT).to(out.dtype)
        share = weight.clamp(min=MIN_WEIGHT).repeat_interleave(out.shape[1] // weight.shape[1], 1)
        out = (out / share).to(out.dtype) * valid
        return fit(out, size, scale), fit(valid, size, scale)

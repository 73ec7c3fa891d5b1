# SPDX-License-Identifier: Apache-2.0
"""FreqFusion: Chen et al., Frequency-aware Feature Fusion for Dense Image Prediction, TPAMI 2024,
https://arxiv.org/abs/2408.12879.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from carafe_plugin.ops import carafe, correlate
from carafe_plugin.ops.arguments import (
    require_channels,
    require_divisible,
    require_odd_int,
    require_positive_int,
)
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import pixel_shuffle, unflatten

from .base import GuidedUpsampler, fit
from .build import UPSAMPLERS
from .sampling import sample_around_centres

NEIGHBOURS = 8
NORM_CHANNELS = 8  # per group of the offset generator's norms


@UPSAMPLERS.register_module('freqfusion')
class FreqFusion(GuidedUpsampler):
    """Fuse a map with a finer one: smooth and enlarge the first, sharpen the second, then add.

    - Low-pass: kernels predicted from both maps, one per output pixel, upsample the map as CARAFE does.
    - High-pass: kernels predicted likewise smooth the guide; what they remove is added to the guide.
    - Offsets (``feature_resample``): the upsampled map is read at points moved by the local similarities of
      both maps.

    Both kernels are a softmax times a Hamming window, renormalised. The predictions from both maps are joined
    in the same way: the compressed guide is sharpened first, by kernels predicted from it alone, and
    predictions from the coarse map are upsampled by the low-pass kernels found so far. :meth:`forward` gives
    the upsampled map, :meth:`fuse` its sum with the sharpened guide, as in the released FPN, and :meth:`pair`
    both, for a concatenation.

    Borders are zero-padded, as in the released code's operator; its path without that operator reflects. Its
    switches that turn parts off are left out. Its class initialises the offset generator twice, the second
    time with Xavier-uniform weights; here the first initialisation stands.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s; the paper has 2.
        guide_channels: channels of the finer map; None takes C.
        lowpass_kernel: side of the low-pass kernels, in input pixels; odd.
        highpass_kernel: side of the high-pass kernels, in guide pixels; odd.
        encoder_kernel: side of the predicting convolutions; odd.
        compressed_channels: channels that both maps are compressed to; with offsets a multiple of 8, the
            channels in a group of the offset generator's norms.
        feature_resample: whether the upsampled map is read at moved points. True in the published detectors,
            False in the released class.
        feature_resample_group: number of groups of contiguous channels, each moved on its own; divides C.

    Shape:
        ``x`` (N, C, H, W), ``guide`` (N, guide_channels, s*H, s*W); returns (N, C, s*H, s*W). 104,690
        parameters at C = 256, 52,514 without offsets.

    Raises:
        TypeError, ValueError: an argument is not a positive int, a kernel side is even, or channels are not
            divisible as said; in the calls, see :meth:`GuidedUpsampler.match_guide`.
    """

    lowpass_window: Tensor
    highpass_window: Tensor
    published_names = (
        ('hamming_lowpass', None),
        ('hamming_highpass', None),
        ('dysampler.init_pos', None),
    )

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        lowpass_kernel: int = 5,
        highpass_kernel: int = 3,
        encoder_kernel: int = 3,
        compressed_channels: int = 64,
        feature_resample: bool = True,
        feature_resample_group: int = 4,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.lowpass_kernel = require_odd_int('lowpass_kernel', lowpass_kernel)
        self.highpass_kernel = require_odd_int('highpass_kernel', highpass_kernel)
        padding = require_odd_int('encoder_kernel', encoder_kernel) // 2
        require_positive_int('compressed_channels', compressed_channels)
        self.hr_channel_compressor = nn.Conv2d(self.guide_channels, compressed_channels, 1)
        self.lr_channel_compressor = nn.Conv2d(in_channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels, lowpass_kernel**2, encoder_kernel, padding=padding
        )
        self.content_encoder2 = nn.Conv2d(
            compressed_channels, highpass_kernel**2, encoder_kernel, padding=padding
        )
        self.register_buffer('lowpass_window', _log_window(lowpass_kernel), persistent=False)
        self.register_buffer('highpass_window', _log_window(highpass_kernel), persistent=False)
        self.dysampler = None
        if feature_resample:
            require_divisible('in_channels', in_channels, 'feature_resample_group', feature_resample_group)
            self.dysampler = _OffsetGenerator(
                compressed_channels, scale_factor, feature_resample_group, encoder_kernel
            )
        self.init_weights()

    def init_weights(self) -> None:
        """Compressors Xavier-uniform, predicting convolutions N(0, 0.001), all biases 0."""
        for layer in (self.hr_channel_compressor, self.lr_channel_compressor):
            init_conv(layer)
        for layer in (self.content_encoder, self.content_encoder2):
            init_conv(layer, std=0.001)
        if self.dysampler is not None:
            self.dysampler.init_weights()

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return self._upsample(x, self.match_guide(x, guide))[0]

    def fuse(self, x: Tensor, guide: Tensor) -> Tensor:
        require_channels('guide', guide, self.in_channels)
        output, sharpened = self.pair(x, guide)
        return output + sharpened

    def pair(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """The upsampled map, in the size of the guide, and the sharpened guide."""
        return self.enter(self._pair, x, guide)

    def _pair(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        output, highpass = self._upsample(x, self.match_guide(x, guide))
        size = guide.shape[-2:]
        smooth = self._smooth(guide, fit(highpass, size, self.scale_factor))
        return fit(output, size, self.scale_factor), guide + (guide - smooth)

    def check_published(self, state: Mapping[str, Tensor]) -> None:
        for name in ('lowpass', 'highpass'):
            window = getattr(self, f'{name}_window').exp().flatten().cpu()
            theirs = state[f'hamming_{name}'].flatten().to(window) if f'hamming_{name}' in state else window
            if theirs.shape != window.shape or not torch.allclose(theirs, window, atol=1e-5):
                raise ValueError(
                    f'published weights of FreqFusion with another window than {name}_kernel='
                    f'{getattr(self, f"{name}_kernel")} and hamming_window=True have: hamming_{name} is '
                    f'{tuple(state[f"hamming_{name}"].shape)}'
                )
        if ('dysampler.offset.weight' in state) != (self.dysampler is not None):
            raise ValueError(
                f'published weights of FreqFusion: set feature_resample={"dysampler.offset.weight" in state}'
            )

    def lowpass_kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The masks (N, k*k, s*H, s*W) that reassemble ``x``, before the offsets if there are any."""
        return self._masks(x, self.match_guide(x, guide))[0]

    def _upsample(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """The upsampled map, and the high-pass masks, which smooth the guide."""
        lowpass, highpass, compressed = self._masks(x, guide)
        output = self._reassemble(x, lowpass)
        if self.dysampler is not None:
            offsets = self.dysampler(*compressed)
            output = sample_around_centres(output, offsets, self.scale_factor, self.dysampler.groups)
        return output, highpass

    def _masks(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Low-pass and high-pass masks, and both compressed maps, the fine one sharpened."""
        fine, coarse = self.hr_channel_compressor(guide), self.lr_channel_compressor(x)
        highpass_logits = self.content_encoder2(fine)
        fine = fine + (fine - self._smooth(fine, _normalise(highpass_logits, self.highpass_window)))
        lowpass_logits = self.content_encoder(fine)
        masks = _normalise(lowpass_logits, self.lowpass_window)
        lowpass_logits = lowpass_logits + self._reassemble(self.content_encoder(coarse), masks)
        masks = _normalise(lowpass_logits, self.lowpass_window)
        highpass_logits = highpass_logits + self._reassemble(self.content_encoder2(coarse), masks)
        return masks, _normalise(highpass_logits, self.highpass_window), (fine, coarse)

    def _reassemble(self, x: Tensor, masks: Tensor) -> Tensor:
        return carafe(x, masks, self.lowpass_kernel, 1, self.scale_factor)

    def _smooth(self, guide: Tensor, masks: Tensor) -> Tensor:
        return carafe(guide, masks, self.highpass_kernel, 1, 1)


class _OffsetGenerator(nn.Module):
    """Offsets for :func:`sample_around_centres`: direction times sigmoid of a range, both from both maps."""

    def __init__(self, channels: int, scale_factor: int, groups: int, kernel: int) -> None:
        super().__init__()
        require_divisible('compressed_channels', channels, 'the group size of its norm', NORM_CHANNELS)
        self.scale_factor, self.groups = scale_factor, groups
        inputs, offsets, padding = channels + NEIGHBOURS, 2 * groups, kernel // 2
        self.offset = nn.Conv2d(inputs, offsets * scale_factor**2, kernel, padding=padding)
        self.direct_scale = nn.Conv2d(inputs, offsets * scale_factor**2, kernel, padding=padding)
        self.hr_offset = nn.Conv2d(inputs, offsets, kernel, padding=padding)
        self.hr_direct_scale = nn.Conv2d(inputs, offsets, kernel, padding=padding)
        self.norm_hr = nn.GroupNorm(channels // NORM_CHANNELS, channels)
        self.norm_lr = nn.GroupNorm(channels // NORM_CHANNELS, channels)

    def init_weights(self) -> None:
        """Directions N(0, 0.001), ranges 0, biases 0, norms the identity."""
        for layer in (self.offset, self.hr_offset):
            init_conv(layer, std=0.001)
        for layer in (self.direct_scale, self.hr_direct_scale):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        self.norm_hr.reset_parameters()
        self.norm_lr.reset_parameters()

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:  # [N, 2*G, s*H, s*W]
        fine, coarse = _with_similarities(self.norm_hr(fine)), _with_similarities(self.norm_lr(coarse))
        direction = pixel_shuffle(self.offset(coarse), self.scale_factor) + self.hr_offset(fine)
        reach = pixel_shuffle(self.direct_scale(coarse), self.scale_factor) + self.hr_direct_scale(fine)
        return direction * reach.sigmoid()


def _with_similarities(x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C + 8, H, W]
    """Append the cosine similarities with eight neighbours two pixels away, zero beyond the map."""
    unit = nn.functional.normalize(x, dim=1, eps=1e-8)
    # Every other entry of a 5 x 5 window is a 3 x 3 one of dilation 2; its centre is left out.
    window = unflatten(correlate(unit, unit, 5, 1, 1), 1, (5, 5))[:, ::2, ::2].flatten(1, 2)
    return torch.cat((x, window[:, :4], window[:, 5:]), dim=1)


def _log_window(side: int) -> Tensor:  # [k*k, 1, 1]
    window = torch.hamming_window(side, periodic=False)
    return (window[:, None] * window).log().flatten()[:, None, None]


def _normalise(logits: Tensor, log_window: Tensor) -> Tensor:  # [N, k*k, H, W]
    """Softmax, times the window, renormalised: the softmax of the sum with the window's logarithm."""
    return (logits + log_window.to(logits.dtype)).softmax(1)

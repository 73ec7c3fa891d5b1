# SPDX-License-Identifier: Apache-2.0
"""FADE and FADE-Lite.

Lu et al., FADE: Fusing the Assets of Decoder and Encoder for Task-Agnostic Upsampling, ECCV 2022,
https://arxiv.org/abs/2207.10392; journal version with FADE-Lite, https://arxiv.org/abs/2407.13500.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from carafe_plugin.ops import carafe
from carafe_plugin.ops.arguments import require_odd_int, require_positive_int
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import enlarge_nearest

from .base import GuidedUpsampler, fit
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('fade')
class FADE(GuidedUpsampler):
    """Upsample with a kernel per output pixel, predicted from the map and from a finer one.

    Semi-shift convolution: one 3x3 convolution runs over the compressed guide and, at the input's size,
    over the compressed map; the second result is enlarged by nearest interpolation and added to the first, so
    that the bias counts twice, as in the published code. Softmax over the k*k entries, then CARAFE's
    reassembly of the map. Of that code's two forms, which are mathematically equal, this is L2H: the map is
    convolved before it is enlarged.

    With ``gate``, G = sigmoid(1x1 convolution of the map) at the output's size mixes the two maps, in
    :meth:`forward` and :meth:`fuse` alike: ``G * guide + (1 - G) * output``. The paper does so for
    segmentation and matting; in a detector's top-down path it adds the guide instead, hence the default.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        guide_channels: channels of the finer map; None takes C. With ``gate`` they must be C.
        up_kernel: side k of the reassembly kernels, in input pixels; odd.
        encoder_kernel: side of the kernel-predicting convolution; odd.
        compressed_channels: channels that both maps are compressed to.
        gate: whether the guide joins through the gate.

    Shape:
        ``x`` (N, C, H, W), ``guide`` (N, guide_channels, s*H, s*W); returns (N, C, s*H, s*W). 47,257
        parameters at C = 256, and 257 of the gate.

    Raises:
        TypeError, ValueError: an argument is not a positive int, a kernel side is even, or the gate would
            mix maps of different channels; in the calls, see :meth:`GuidedUpsampler.match_guide`.
    """

    depthwise = False
    # The released code has the generator in two forms, L2H and H2L.
    published_names = (
        ('ker_generator.compressor_en.', 'guide_compressor.'),
        ('ker_generator.compressor_de.', 'channel_compressor.'),
        ('ker_generator.content_encoder.', 'content_encoder.'),
        ('kernel_generator.conv1_en.', 'guide_compressor.'),
        ('kernel_generator.conv1_de.', 'channel_compressor.'),
        ('kernel_generator.conv2_kernels', 'content_encoder.weight'),
        ('kernel_generator.conv2_bias', 'content_encoder.bias'),
        ('gate_generator.conv.', 'gate.'),
    )

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        up_kernel: int = 5,
        encoder_kernel: int = 3,
        compressed_channels: int = 64,
        gate: bool = False,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.up_kernel = require_odd_int('up_kernel', up_kernel)
        require_odd_int('encoder_kernel', encoder_kernel)
        require_positive_int('compressed_channels', compressed_channels)
        if gate and self.guide_channels != in_channels:
            raise ValueError(
                f'gate=True mixes the maps, so guide_channels must be in_channels={in_channels}, '
                f'got {self.guide_channels}: set gate=False'
            )
        self.guide_compressor = nn.Conv2d(self.guide_channels, compressed_channels, 1)
        self.channel_compressor = nn.Conv2d(in_channels, compressed_channels, 1, bias=False)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            up_kernel**2,
            encoder_kernel,
            padding=encoder_kernel // 2,
            groups=compressed_channels if self.depthwise else 1,
        )
        self.gate = nn.Conv2d(in_channels, 1, 1) if gate else None
        self.init_weights()

    def init_weights(self) -> None:
        """Xavier-uniform weights, zero biases."""
        for layer in self.children():
            init_conv(layer)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        guide = self.match_guide(x, guide)
        output = self._upsample(x, guide)
        return output if self.gate is None else self._mix(output, self._open(self.gate(x)), guide)

    def check_published(self, state: Mapping[str, Tensor]) -> None:
        gated = 'gate_generator.conv.weight' in state
        if gated != (self.gate is not None):
            raise ValueError(f'published weights of {type(self).__name__}: set gate={gated}')

    def kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The masks (N, k*k, s*H, s*W) that reassemble ``x``."""
        fine = self.content_encoder(self.guide_compressor(self.match_guide(x, guide)))
        coarse = self.content_encoder(self.channel_compressor(x))
        logits = fine + enlarge_nearest(coarse, self.scale_factor)
        return logits.softmax(1)

    def fuse(self, x: Tensor, guide: Tensor) -> Tensor:
        if self.gate is None:
            return super().fuse(x, guide)
        return self.enter(self._fuse_by_gate, x, guide)

    def _fuse_by_gate(self, x: Tensor, guide: Tensor) -> Tensor:
        assert self.gate is not None
        output, gate = self._upsample(x, self.match_guide(x, guide)), self._open(self.gate(x))
        size = guide.shape[-2:]
        return self._mix(fit(output, size, self.scale_factor), fit(gate, size, self.scale_factor), guide)

    def _upsample(self, x: Tensor, guide: Tensor) -> Tensor:
        return carafe(x, self.kernels(x, guide), self.up_kernel, 1, self.scale_factor)

    def _open(self, logits: Tensor) -> Tensor:  # [N, 1, H, W] -> [N, 1, s*H, s*W]
        return enlarge_nearest(logits, self.scale_factor).sigmoid()

    @staticmethod
    def _mix(output: Tensor, gate: Tensor, guide: Tensor) -> Tensor:
        return gate * guide + (1 - gate) * output


@UPSAMPLERS.register_module('fade_lite')
class FADELite(FADE):
    """FADE with k*k compressed channels and a depthwise kernel-predicting convolution.

    Args:
        in_channels, scale_factor, guide_channels, up_kernel, encoder_kernel, gate: as in :class:`FADE`.

    Shape:
        As :class:`FADE`. 13,025 weights and 50 biases at C = 256, and 257 parameters of the gate.
    """

    depthwise = True

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        up_kernel: int = 5,
        encoder_kernel: int = 3,
        gate: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            scale_factor,
            guide_channels=guide_channels,
            up_kernel=require_odd_int('up_kernel', up_kernel),
            encoder_kernel=encoder_kernel,
            compressed_channels=up_kernel**2,
            gate=gate,
        )

# SPDX-License-Identifier: Apache-2.0
"""DySample: Liu et al., Learning to Upsample by Learning to Sample, ICCV 2023, arXiv:2308.15085."""

from collections.abc import Mapping

from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_choice, require_divisible
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import pixel_shuffle

from .base import Upsampler
from .build import UPSAMPLERS
from .sampling import sample_around_centres


@UPSAMPLERS.register_module('dysample')
class DySample(Upsampler):
    """Upsample by bilinear sampling at points that a 1x1 convolution predicts.

    The offsets are 0.25 times the prediction, in input pixels; with ``dyscope`` ("+" in the paper) 0.5
    times prediction times sigmoid of a second prediction. Parameter names are those of the published code,
    whose coordinates have the dtype of the features; here they are float32 at least.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        style: ``lp`` predicts s*s points per input pixel; ``pl`` ("-S") shuffles the features to the
            output's size first and predicts one per output pixel.
        groups: number of groups of contiguous channels, each sampled at points of its own; divides C. None
            is the published choice, 4 for ``lp`` and 8 for ``pl``.
        dyscope: predict the range of the offsets as well.
        scope_bias: whether that prediction has a bias, as in some of the released code.

    Shape:
        (N, C, H, W) to (N, C, s*H, s*W). 8,192 weights and 32 biases at C = 256 and the defaults.

    Raises:
        TypeError, ValueError: an argument is not a positive int, the style is unknown, C is not divisible
            by ``groups``, or by s*s with ``pl``, or ``scope_bias`` comes without ``dyscope``.
    """

    published_names = (('init_pos', None),)

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        style: str = 'lp',
        groups: int | None = None,
        dyscope: bool = False,
        scope_bias: bool = False,
    ) -> None:
        super().__init__(in_channels, scale_factor)
        self.style = require_choice('style', style, ('lp', 'pl'))
        self.groups = (4 if style == 'lp' else 8) if groups is None else groups
        require_divisible('in_channels', in_channels, 'groups', self.groups)
        if style == 'pl':
            require_divisible('in_channels', in_channels, 'scale_factor**2', scale_factor**2)
        if scope_bias and not dyscope:
            raise ValueError('scope_bias=True needs dyscope=True, got dyscope=False')
        phases = scale_factor**2
        channels = (in_channels, 2 * self.groups * phases)
        if style == 'pl':
            channels = (in_channels // phases, 2 * self.groups)
        self.offset = nn.Conv2d(*channels, 1)
        self.scope = nn.Conv2d(*channels, 1, bias=scope_bias) if dyscope else None
        self.init_weights()

    def init_weights(self) -> None:
        """Offsets N(0, 0.001) with zero bias, scope zero: sampling starts near bilinear interpolation."""
        init_conv(self.offset, std=0.001)
        if self.scope is not None:
            for p in self.scope.parameters():
                nn.init.zeros_(p)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        source = pixel_shuffle(x, self.scale_factor) if self.style == 'pl' else x
        offsets = self.offset(source)
        offsets = offsets * 0.25 if self.scope is None else offsets * self.scope(source).sigmoid() * 0.5
        if self.style == 'lp':
            offsets = pixel_shuffle(offsets, self.scale_factor)
        return sample_around_centres(x, offsets, self.scale_factor, self.groups)

    def check_published(self, state: Mapping[str, Tensor]) -> None:
        points = state['init_pos'].numel() // 2  # of all groups
        needed = dict(
            style='lp' if state['offset.weight'].shape[0] == 2 * points else 'pl',
            groups=points // self.scale_factor**2,
            dyscope='scope.weight' in state,
            scope_bias='scope.bias' in state,
        )
        here = dict(
            style=self.style,
            groups=self.groups,
            dyscope=self.scope is not None,
            scope_bias=self.scope is not None and self.scope.bias is not None,
        )
        if odd := [f'{name}={value!r}' for name, value in needed.items() if here[name] != value]:
            raise ValueError(f'published weights of DySample: set {", ".join(odd)} in upsample_cfg')

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, style={self.style!r}, groups={self.groups}'

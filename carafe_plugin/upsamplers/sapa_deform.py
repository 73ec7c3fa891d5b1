# SPDX-License-Identifier: Apache-2.0
"""SAPA-D: Liu et al., On Point Affiliation in Feature Upsampling, 2023, https://arxiv.org/abs/2307.08198."""

import torch
from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_divisible, require_positive_int
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import enlarge_nearest, pixel_centres, pixel_shuffle

from .base import GuidedUpsampler
from .build import UPSAMPLERS
from .sampling import sample


@UPSAMPLERS.register_module('sapa_deform')
class SAPADeform(GuidedUpsampler):
    """SAPA at predicted points: each output pixel is a weighted sum of the map at a few positions of its own.

    A 1x1 convolution of the map predicts, for every output pixel and group of channels, offsets from the
    centre of the input pixel that it lies in. There the map is read bilinearly, zero outside. The weights are
    a softmax, over the points, of the inner products of q(guide) and k(map at the point), q and k being 1x1
    convolutions. As released: without a norm (the published default) and with ``high_offset``, offsets for
    each output pixel by pixel-shuffle.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        guide_channels: channels of the finer map; None takes C.
        points: positions per output pixel and group.
        groups: number of groups of contiguous channels, each with positions of its own; divides C.
        embedding_channels: channels of q and k in each group.

    Shape:
        ``x`` (N, C, H, W), ``guide`` (N, guide_channels, s*H, s*W); returns (N, C, s*H, s*W). 139,808
        parameters at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or C is not divisible by ``groups``; in the
            calls, see :meth:`GuidedUpsampler.match_guide`.
    """

    published_names = (
        ('q.', 'query.'),
        ('k.', 'key.'),
    )

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        points: int = 9,
        groups: int = 4,
        embedding_channels: int = 32,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.points = require_positive_int('points', points)
        self.groups = groups
        require_divisible('in_channels', in_channels, 'groups', groups)
        embedding = groups * require_positive_int('embedding_channels', embedding_channels)
        self.query = nn.Conv2d(self.guide_channels, embedding, 1)
        self.key = nn.Conv2d(in_channels, embedding, 1)
        self.offset = nn.Conv2d(in_channels, 2 * points * groups * scale_factor**2, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Weights N(0, 0.02), zero biases: points start near the input pixel."""
        for layer in self.children():
            init_conv(layer, std=0.02)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        queries = self.query(self.match_guide(x, guide)).unflatten(1, (self.groups, -1))  # [N, G, D, sH, sW]
        keys, grids = self.key(x), self._grids(x)

        def score(grid: Tensor) -> Tensor:  # [N, G, sH, sW]
            return (queries * sample(keys, grid, 'zeros').unflatten(1, (self.groups, -1))).sum(2)

        # One point at a time: all of them at once would take `points` maps of the output's size.
        weights = torch.stack([score(grid) for grid in grids], dim=2).softmax(2)
        output = x.new_zeros(())
        for weight, grid in zip(weights.unbind(2), grids, strict=True):
            read = sample(x, grid, 'zeros').unflatten(1, (self.groups, -1))
            output = output + weight[:, :, None] * read
        return output.flatten(1, 2).to(x.dtype)

    def _grids(self, x: Tensor) -> tuple[Tensor, ...]:  # one [N, G, s*H, s*W, 2] per point
        """Positions in [-1, 1] over the map, as :func:`sample` takes them."""
        offsets = pixel_shuffle(self.offset(x), self.scale_factor)
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        offsets = offsets.unflatten(1, (self.groups, self.points, 2))
        # The centres of the input pixels that the output pixels lie in, and the map's size.
        along_x, along_y = (
            (enlarge_nearest(centre, self.scale_factor)[:, :, None], size[:, :, None])
            for centre, size in pixel_centres(x[:, :1].to(offsets.dtype))
        )
        grid = torch.stack(
            [
                (centre + offsets[:, :, :, axis]) * (2 / size) - 1
                for axis, (centre, size) in enumerate((along_x, along_y))
            ],
            dim=-1,
        )
        return grid.unbind(2)

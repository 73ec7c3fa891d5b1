# SPDX-License-Identifier: Apache-2.0
"""SAPA: Lu et al., SAPA: Similarity-Aware Point Affiliation for Feature Upsampling, NeurIPS 2022,
https://arxiv.org/abs/2209.12866.
"""

from torch import Tensor, nn

from carafe_plugin.ops import carafe, correlate
from carafe_plugin.ops.arguments import require_choice, require_odd_int, require_positive_int
from carafe_plugin.ops.init import init_conv
from carafe_plugin.ops.tensors import enlarge_nearest

from .base import GuidedUpsampler
from .build import UPSAMPLERS
from .group_norm import GroupNorm

SIMILARITIES = ('inner', 'bilinear', 'gated')


@UPSAMPLERS.register_module('sapa')
class SAPA(GuidedUpsampler):
    """Upsample with kernels made of similarities between the guide's pixels and the map's around them.

    Every guide pixel is compared with the k x k map pixels around it; the similarity with a pixel outside the
    map is 0. Softmax of the similarities is the kernel that reassembles the map. A group norm is applied to
    guide and map before they are compared, but not to the map that is reassembled. With g the guide, x the
    map and u nearest interpolation, a similarity is the inner product of

    - ``inner`` (SAPA-I): norm(g) and norm(x), as many channels each;
    - ``bilinear`` (SAPA-B): q(norm(g)) and k(norm(x)), q and k 1x1 convolutions;
    - ``gated`` (SAPA-G): G * q(norm(g)) + (1 - G) * p(u(x)) and k(norm(x)), with p another 1x1 convolution
      and the gate G = u(sigmoid(1x1 convolution of norm(x))).

    The group norm and 32 embedding channels are those of the released detection and segmentation code,
    whose parameter counts are the published ones; the first release has a layer norm and 64. Where the
    channels are no multiple of 32, the norm has as many groups as the greatest common divisor of both. The
    gate follows the released code.

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        guide_channels: channels of the finer map; None takes C. ``inner`` needs C.
        similarity: one of the three above.
        up_kernel: side k of the reassembly kernels, in input pixels; odd.
        embedding_channels: channels of q, k and p; unused by ``inner``.

    Shape:
        ``x`` (N, C, H, W), ``guide`` (N, guide_channels, s*H, s*W); returns (N, C, s*H, s*W). At C = 256 the
        norms have 1,024 parameters, ``bilinear`` 16,448 more and ``gated`` 24,929 more.

    Raises:
        TypeError, ValueError: an argument is not a positive int, ``up_kernel`` is even, the similarity is
            unknown, or ``inner`` would compare different channels; in the calls, see
            :meth:`GuidedUpsampler.match_guide`.
    """

    published_names = (
        ('norm_y.', 'guide_norm.'),
        ('norm_x.', 'norm.'),
        ('q.', 'query.'),
        ('qy.', 'query.'),
        ('qx.', 'self_query.'),
        ('k.', 'key.'),
    )

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        similarity: str = 'bilinear',
        up_kernel: int = 5,
        embedding_channels: int = 32,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.similarity = require_choice('similarity', similarity, SIMILARITIES)
        self.up_kernel = require_odd_int('up_kernel', up_kernel)
        require_positive_int('embedding_channels', embedding_channels)
        if similarity == 'inner' and self.guide_channels != in_channels:
            raise ValueError(
                f"similarity='inner' compares the maps, so guide_channels must be in_channels={in_channels}, "
                f"got {self.guide_channels}: take 'bilinear' or 'gated'"
            )
        self.guide_norm = GroupNorm(self.guide_channels)
        self.norm = GroupNorm(in_channels)
        if similarity != 'inner':
            self.query = nn.Conv2d(self.guide_channels, embedding_channels, 1)
            self.key = nn.Conv2d(in_channels, embedding_channels, 1)
        if similarity == 'gated':
            self.self_query = nn.Conv2d(in_channels, embedding_channels, 1)
            self.gate = nn.Conv2d(in_channels, 1, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions N(0, 0.02) with zero biases, norms the identity."""
        for layer in self.children():
            if isinstance(layer, nn.GroupNorm):
                layer.reset_parameters()
            else:
                init_conv(layer, std=0.02)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        return carafe(x, self.kernels(x, guide), self.up_kernel, 1, self.scale_factor)

    def kernels(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The masks (N, k*k, s*H, s*W) that reassemble ``x``: softmax of the similarities."""
        queries, keys = self.guide_norm(self.match_guide(x, guide)), self.norm(x)
        if self.similarity == 'gated':
            gate = enlarge_nearest(self.gate(keys).sigmoid(), self.scale_factor)
            own = enlarge_nearest(self.self_query(x), self.scale_factor)
            queries = gate * self.query(queries) + (1 - gate) * own
            keys = self.key(keys)
        elif self.similarity == 'bilinear':
            queries, keys = self.query(queries), self.key(keys)
        logits = correlate(queries, keys, self.up_kernel, 1, self.scale_factor)
        return logits.softmax(1)

# SPDX-License-Identifier: Apache-2.0
"""IndexNet.

Lu et al., Indices Matter: Learning to Index for Deep Image Matting, ICCV 2019, https://arxiv.org/abs/1908.00672.
"""

from torch import Tensor, nn

from carafe_plugin.ops.arguments import require_scale_factor
from carafe_plugin.ops.tensors import enlarge_nearest, pixel_shuffle

from .base import GuidedUpsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('indexnet')
class IndexNet(GuidedUpsampler):
    """Nearest interpolation, each pixel weighted by an index in (0, 1) predicted from the guide.

    The holistic index block with context and nonlinearity, as in the tables that compare upsamplers: a 4x4
    convolution of stride 2 (C -> 2C), batch norm, ReLU6, a 1x1 convolution to one index per sub-pixel,
    sigmoid, pixel-shuffle. The encoder's index, softmax of the same, belongs to a pooling step that no host
    here has. The paper's depthwise and linear variants are left out.

    In training, batch norm refuses a batch of one guide of 2 x 2 or 3 x 3 pixels: it would have one value per
    channel.

    Args:
        in_channels: channels of the map.
        scale_factor: 2, for which the block is defined.
        guide_channels: channels C of the finer map; None takes ``in_channels``.

    Shape:
        ``x`` (N, in_channels, H, W), ``guide`` (N, C, 2*H, 2*W); returns (N, in_channels, 2*H, 2*W).
        2,100,224 parameters at C = 256.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``scale_factor`` is not 2; in the calls,
            see :meth:`GuidedUpsampler.match_guide`.
    """

    published_names = (('indexnet.', 'index.'),)

    def __init__(self, in_channels: int, scale_factor: int = 2, *, guide_channels: int | None = None) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        require_scale_factor('indexnet', scale_factor, only=2)
        channels = self.guide_channels
        self.index = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU6(),
            nn.Conv2d(2 * channels, 4, 1, bias=False),
        )
        self.init_weights()

    def init_weights(self) -> None:
        """PyTorch's own: the released block sets none."""
        for layer in self.index.children():
            if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
                layer.reset_parameters()

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        index = pixel_shuffle(self.index(self.match_guide(x, guide)).sigmoid(), 2)
        return index.to(x.dtype) * enlarge_nearest(x, 2)

# SPDX-License-Identifier: Apache-2.0
"""JBU: the joint bilateral upsampler of Fu et al., FeatUp: A Model-Agnostic Framework for Features at Any
Resolution, ICLR 2024, https://arxiv.org/abs/2403.10516.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carafe_plugin.ops import carafe, correlate
from carafe_plugin.ops.arguments import require_positive_int
from carafe_plugin.ops.tensors import ints, is_exporting

from .base import GuidedUpsampler
from .build import UPSAMPLERS


@UPSAMPLERS.register_module('jbu')
class JBU(GuidedUpsampler):
    """Upsample bicubically, then filter by kernels of distance and of similarity in the guide.

    With k = 2 * radius + 1 and p a small network on the guide, the kernel of an output pixel is the product
    of softmax(exp(t) * <p(guide here), p(guide there)>) over its k x k neighbours and of a Gaussian of their
    distance (-1 to 1 across the kernel, width sigma), divided by its sum; a second network of kernel and
    guide adds a tenth of what it says. t and sigma are learned; maps are reflected at the border. As
    released: the first network's dropout takes whole channels, exp(t) is kept in [1e-4, 1e4].

    Args:
        in_channels: channels C of the map.
        scale_factor: integer ratio s.
        guide_channels: channels of the finer map; None takes C. FeatUp's guide is the RGB image.
        radius: of the kernels, in output pixels.
        key_channels: channels of p.
        dropout: share of the channels dropped within both networks in training.

    Shape:
        ``x`` (N, C, H, W), ``guide`` (N, guide_channels, s*H, s*W); returns (N, C, s*H, s*W). 6,233
        parameters with an RGB guide, whatever C.

    Raises:
        TypeError, ValueError: an argument is not a positive int, or ``dropout`` not in [0, 1); in the calls,
            see :meth:`GuidedUpsampler.match_guide`.
    """

    def __init__(
        self,
        in_channels: int,
        scale_factor: int = 2,
        *,
        guide_channels: int | None = None,
        radius: int = 3,
        key_channels: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels, scale_factor, guide_channels=guide_channels)
        self.radius = require_positive_int('radius', radius)
        require_positive_int('key_channels', key_channels)
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout must be in [0, 1), got {dropout}')
        entries = (2 * radius + 1) ** 2
        self.range_temp = nn.Parameter(torch.zeros(1))  # FSDP2 takes no scalars
        self.sigma_spatial = nn.Parameter(torch.ones(1))
        self.range_proj = _network(self.guide_channels, key_channels, dropout)
        self.fixup_proj = _network(self.guide_channels + entries, entries, dropout)

    def init_weights(self) -> None:
        """PyTorch's own initialisation of convolutions, t = 0 and sigma = 1."""
        nn.init.zeros_(self.range_temp)
        nn.init.ones_(self.sigma_spatial)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        for key in (f'{prefix}range_temp', f'{prefix}sigma_spatial'):
            if key in state_dict:  # scalars in the released weights
                state_dict[key] = state_dict[key].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        kernels = self._filters(x, guide)
        if self.scale_factor > 1:
            x = F.interpolate(x, scale_factor=self.scale_factor, mode='bicubic')
        return reassemble_padded(reflect(x, self.radius), kernels, 2 * self.radius + 1)

    # Not `kernels()`: those of other upsamplers reassemble the coarse map.
    def _filters(self, x: Tensor, guide: Tensor | None = None) -> Tensor:
        """The kernels (N, k*k, s*H, s*W); their sums are one but for what the second network adds."""
        guide = self.match_guide(x, guide)
        keys = self.range_proj(guide)
        temperature = self.range_temp.exp().clamp(1e-4, 1e4)
        kernels = (temperature * self._similarities(keys)).softmax(1) * self._gaussian()
        kernels = kernels / kernels.sum(1, keepdim=True).clamp_min(1e-7)
        return kernels + 0.1 * self.fixup_proj(torch.cat((kernels, guide), dim=1))

    def _similarities(self, keys: Tensor) -> Tensor:
        """Inner products with the k x k neighbours, reflected at the border."""
        queries = F.pad(keys, (self.radius,) * 4)
        padded = reflect(keys, self.radius)
        return correlate(queries, padded, 2 * self.radius + 1, 1, 1)[_inner(self.radius)]

    def _gaussian(self) -> Tensor:  # [k*k, 1, 1]
        axis = torch.linspace(-1, 1, 2 * self.radius + 1, device=self.sigma_spatial.device)
        squares = axis.to(self.sigma_spatial.dtype).square()
        distances = squares[:, None] + squares
        return (-distances / (2 * self.sigma_spatial.square())).exp().flatten()[:, None, None]

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, guide_channels={self.guide_channels}, radius={self.radius}'


def reassemble_padded(padded: Tensor, kernels: Tensor, kernel_size: int) -> Tensor:
    """Filter each pixel by a kernel of its own; FeatUp's ``adaptive_conv``, on the operators here.

    ``out[n, c, i, j]`` is the sum over a, b in [0, k) of ``kernels[n, a * k + b, i, j] * padded[n, c, i + a,
    j + b]``: reassembly of ratio 1, the border of the map given instead of zero.

    Shape:
        ``padded`` (N, C, H + k - 1, W + k - 1), ``kernels`` (N, k*k, H, W) with odd k = ``kernel_size``;
        returns (N, C, H, W).
    """
    radius = kernel_size // 2
    return carafe(padded, F.pad(kernels, (radius,) * 4), kernel_size, 1, 1)[_inner(radius)]


def reflect(x: Tensor, radius: int) -> Tensor:
    """Reflect (N, C, H, W) at its border, without repeating the edge; again and again where it is small."""
    height, width = ints(x.shape[-2:])
    if min(height, width) > radius or is_exporting():
        return F.pad(x, (radius,) * 4, mode='reflect')
    for dim, side in ((2, height), (3, width)):
        period = max(2 * (side - 1), 1)
        places = torch.arange(-radius, side + radius, device=x.device) % period
        x = x.index_select(dim, torch.minimum(places, period - places))
    return x


def _network(in_channels: int, out_channels: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1),
        nn.GELU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(out_channels, out_channels, 1),
    )


def _inner(radius: int) -> tuple:
    """Indices of a map without its border."""
    return (..., slice(radius, -radius or None), slice(radius, -radius or None))

# SPDX-License-Identifier: Apache-2.0
"""What an upsampler costs, counted from the module itself. Needs torch alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from carafe_plugin.ops import _native
from carafe_plugin.upsamplers import build_upsampler

#: The published settings of the upsamplers that have more than one, beside their defaults.
VARIANTS = (
    dict(type='dysample', dyscope=True),
    dict(type='dysample', style='pl'),
    dict(type='dysample', style='pl', dyscope=True),
    dict(type='fade', gate=True),
    dict(type='fade_lite', gate=True),
    dict(type='sapa', similarity='inner'),
    dict(type='sapa', similarity='gated'),
    dict(type='freqfusion', feature_resample=False),
)

_SIZE = (50, 84)  # of the map: any will do, large enough that what is computed once a map does not show
_BILINEAR = 8  # per value read: four products and their sums, as the CARAFE paper counts
_BICUBIC = 32


@dataclass(frozen=True)
class UpsamplerCost:
    """Cost of one upsampler.

    ``weights`` are parameters of convolutions, ``others`` biases and norms; many published counts leave the
    latter out. ``flops`` is per pixel of the map that goes in and counts 2 for a multiply-add, as the CARAFE
    paper does; the tables of its successors count 1, which is ``macs``.
    """

    weights: int
    others: int
    flops: float

    @property
    def parameters(self) -> int:
        return self.weights + self.others

    @property
    def macs(self) -> float:
        return self.flops / 2


def upsampler_cost(cfg: Mapping, channels: int = 256, scale_factor: int = 2) -> UpsamplerCost:
    """Count what an ``upsample_cfg`` costs on maps of ``channels`` channels, guide included.

    Counted are convolutions, reassembly and local similarity, products (1 FLOP a value) and bilinear reading
    (8 a value). Sums, norms, activations, softmax and copies are left out, as in published figures. Nothing
    is computed: the tensors are fake.

    Raises:
        TypeError, ValueError: see :func:`carafe_plugin.build_upsampler`.
        RuntimeError: the native CPU library is not there, whose operators are counted.
    """
    if 'cpu' not in _native.loaded:
        raise RuntimeError(f'costs are counted on the native operators: {_native.why_not("cpu")}')
    height, width = _SIZE
    with FakeTensorMode(), torch.no_grad():
        up = build_upsampler(cfg, channels, scale_factor, guide_channels=channels).eval()
        x = torch.empty(1, channels, height, width)
        guide = torch.empty(1, channels, scale_factor * height, scale_factor * width)
        with FlopCounterMode(display=False, custom_mapping=_POINTWISE) as counter:
            up(x, guide if up.needs_guide else None)
    weights, others = count_parameters(up)
    return UpsamplerCost(weights, others, counter.get_total_flops() / (height * width))


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of weights of convolutions and of other parameters (biases, norms)."""
    sizes = [(p.dim() > 1, p.numel()) for p in module.parameters()]
    return sum(n for is_weight, n in sizes if is_weight), sum(n for is_weight, n in sizes if not is_weight)


def _per_value(flops: int):
    # Of maps alone: torch does nearest interpolation by products of indices.
    return lambda *args, out_shape, **kwargs: flops * prod(out_shape) if len(out_shape) >= 4 else 0


_POINTWISE = {
    torch.ops.aten.mul: _per_value(1),
    torch.ops.aten.upsample_bilinear2d: _per_value(_BILINEAR),
    torch.ops.aten.upsample_bicubic2d: _per_value(_BICUBIC),
    torch.ops.aten.grid_sampler_2d: _per_value(_BILINEAR),
}

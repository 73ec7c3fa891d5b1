# SPDX-License-Identifier: Apache-2.0
"""FLOPs by mmengine (1 per multiply-add) and by torch (2), against the closed form of the paper."""

import pytest
import torch
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer, get_model_complexity_info
from torch.utils.flop_counter import FlopCounterMode

import carafe_plugin.detection
from carafe_plugin import build_upsampler
from carafe_plugin.ops import _native

needs_native = pytest.mark.skipif(
    'cpu' not in _native.loaded, reason=f'no native library: {_native.why_not("cpu")}'
)


@pytest.fixture(params=[pytest.param('native', marks=needs_native), 'reference'])
def path(request, monkeypatch):
    if request.param == 'reference':
        monkeypatch.setattr(_native, 'operator', lambda *_: None)


def per_pixel(c, c_m=64, k_enc=3, k=5, groups=1, s=2):
    """Multiply-adds of a CARAFE for one low-resolution pixel: compressor, encoder, reassembly; no biases."""
    return c * c_m + c_m * k_enc**2 * s**2 * k**2 * groups + s**2 * k**2 * c


def complexity(model, *shapes):
    inputs = tuple(torch.rand(shape) for shape in shapes)
    return get_model_complexity_info(model, inputs=inputs, show_table=False, show_arch=False)


@pytest.mark.parametrize('cfg, s', [(dict(), 2), (dict(up_group=4, up_kernel=3), 3)])
def test_carafe_module(path, cfg, s):
    module = build_upsampler(dict(type='carafe', **cfg), 256, s)
    expected = per_pixel(256, k=module.up_kernel, groups=module.up_group, s=s) * 2 * 3 * 5
    assert complexity(module, (2, 256, 3, 5))['flops'] == expected


def test_paper():
    """199,496 FLOPs per pixel in the paper: 2 per multiply-add, and the 64 + 100 biases."""
    assert 2 * (per_pixel(256) + 64 + 100) == 199_496


@needs_native
def test_torch_counts_twice_as_many():
    module, x = build_upsampler(dict(type='carafe'), 64), torch.rand(2, 64, 3, 5)
    with FlopCounterMode(display=False) as counter:
        module(x)
    assert counter.get_total_flops() == 2 * FlopAnalyzer(module, (x,)).total()


class Call(torch.nn.Module):
    """An operator with its sizes as a module."""

    def __init__(self, name, *sizes):
        super().__init__()
        self.name, self.sizes = name, sizes

    def forward(self, *maps):
        return getattr(torch.ops.carafe_plugin, self.name)(*maps, *self.sizes)


@needs_native
@pytest.mark.parametrize(
    'name, sizes, shapes',
    [
        ('reassemble', (5, 4, 3), [(2, 8, 3, 5), (2, 100, 9, 15)]),
        ('reassemble_softmax', (5, 4, 3), [(2, 8, 3, 5), (2, 900, 3, 5)]),
        ('correlate', (5, 4, 3), [(2, 8, 9, 15), (2, 8, 3, 5)]),
        ('scatter', (3, 5, 5, 4, 3), [(2, 8, 9, 15), (2, 100, 9, 15)]),
    ],
)
def test_operators_count_a_kernel_for_each_element_of_the_larger_map(name, sizes, shapes):
    """Whatever the groups. torch's counter agrees, but for its 2 per multiply-add."""
    call, maps = Call(name, *sizes), [torch.rand(shape) for shape in shapes]
    multiply_adds = 25 * 2 * 8 * 9 * 15
    assert FlopAnalyzer(call, tuple(maps)).total() == multiply_adds
    with FlopCounterMode(display=False) as counter:
        call(*maps)
    assert counter.get_total_flops() == 2 * multiply_adds


def test_fpn_is_the_sum_of_its_parts(path):
    neck = carafe_plugin.detection.UpsampleFPN([8, 16, 32], 16, num_outs=4, upsample_cfg=dict(type='carafe'))

    class Neck(torch.nn.Module):  # mmengine hands over the maps as arguments
        def __init__(self):
            super().__init__()
            self.neck = neck

        def forward(self, *maps):
            return self.neck(maps)

    sizes = [(12, 20), (6, 10), (3, 5)]
    maps = [(1, c, *size) for c, size in zip((8, 16, 32), sizes, strict=True)]
    pixels = [h * w for h, w in sizes]
    laterals = sum(c * 16 * n for c, n in zip((8, 16, 32), pixels, strict=True))
    outputs = sum(9 * 16 * 16 * n for n in pixels)
    upsamplers = sum(per_pixel(16) * n for n in pixels[1:])
    assert complexity(Neck(), *maps)['flops'] == laterals + outputs + upsamplers


@needs_native
def test_counted_operators_are_not_called_unsupported():
    """mmengine warns of operators that one of its two counts does not know."""
    neck = carafe_plugin.detection.UpsampleFPN([8, 16], 16, num_outs=2, upsample_cfg=dict(type='fade'))
    maps = ((torch.rand(1, 8, 8, 8), torch.rand(1, 16, 4, 4)),)
    counts = {kind: kind(neck, maps) for kind in (FlopAnalyzer, ActivationAnalyzer)}
    for kind, least in ((FlopAnalyzer, 16 * 8 * 8 * 25), (ActivationAnalyzer, 16 * 8 * 8)):
        assert counts[kind].by_operator()['reassemble'] >= least
        assert not [op for op in counts[kind].unsupported_ops() if op.startswith('carafe_plugin')]

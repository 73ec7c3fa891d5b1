# SPDX-License-Identifier: Apache-2.0
"""UpsampleFPN against the stock FPN."""

import pytest
import torch
from mmdet.models.necks import FPN

from carafe_plugin.detection import UpsampleFPN

CHANNELS = [8, 16, 24, 32]
VARIANTS = dict(
    pooled=dict(num_outs=5),
    retinanet=dict(num_outs=5, start_level=1, add_extra_convs='on_input'),
    fcos=dict(num_outs=6, start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True),
    on_lateral=dict(num_outs=6, add_extra_convs='on_lateral', norm_cfg=dict(type='GN', num_groups=2)),
    end_level=dict(num_outs=2, start_level=1, end_level=2),
)


def pyramid(height=64, width=100, batch=2):
    """Maps of strides 4 to 32, sizes rounded up as in ResNet."""
    sizes = [(-(-height // s), -(-width // s)) for s in (4, 8, 16, 32)]
    return tuple(torch.rand(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True))


def build(cls, upsample_cfg=None, **kwargs):
    torch.manual_seed(0)
    extra = {} if cls is FPN else dict(upsample_cfg=upsample_cfg)
    neck = cls(CHANNELS, 8, **{**VARIANTS['pooled'], **kwargs}, **extra)
    neck.init_weights()
    return neck


@pytest.mark.parametrize('size', [(64, 96), (64, 100), (37, 101), (31, 33)])
@pytest.mark.parametrize('upsample_cfg', [None, dict(type='nearest')], ids=['none', 'nearest'])
@pytest.mark.parametrize('variant', VARIANTS)
def test_equals_the_stock_neck(variant, upsample_cfg, size):
    stock, ours = (
        build(FPN, **VARIANTS[variant]),
        build(UpsampleFPN, upsample_cfg, **VARIANTS[variant]),
    )
    ours.load_state_dict(stock.state_dict(), strict=True)
    inputs = pyramid(*size)
    expected, outs = stock(inputs), ours(inputs)
    assert len(outs) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


def test_dilated_stages_are_added_without_upsampling():
    maps = tuple(torch.rand(1, c, 16, 20) for c in CHANNELS)
    stock, ours = build(FPN), build(UpsampleFPN, dict(type='carafe'))
    ours.load_state_dict(stock.state_dict(), strict=False)
    assert all(torch.equal(a, b) for a, b in zip(ours(maps), stock(maps), strict=True))


def test_bad_arguments():
    with pytest.raises(ValueError, match='asks for scale_factor=4, this place upsamples by 2'):
        build(UpsampleFPN, dict(type='carafe', scale_factor=4))
    maps = [*pyramid()[:3], torch.rand(2, 32, 9, 9)]
    with pytest.raises(
        ValueError,
        match=r'level 3 of size \(9, 9\) cannot be upsampled by 2 to level 2 of size \(4, 7\)',
    ):
        build(UpsampleFPN, dict(type='carafe'))(maps)

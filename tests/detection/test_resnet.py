# SPDX-License-Identifier: Apache-2.0
"""CarafeResNet against the stock backbone."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS

from carafe_plugin.detection.resnet import CarafeResNet
from carafe_plugin.downsamplers import DOWNSAMPLERS, CarafeDownsample

SMALL = dict(depth=18, base_channels=8, norm_eval=False)


def build(cls, **kwargs):
    torch.manual_seed(0)
    net = cls(**{**SMALL, **kwargs})
    net.init_weights()
    return net


@pytest.mark.parametrize('size', [(64, 64), (65, 97)])
@pytest.mark.parametrize(
    'kwargs', [dict(), dict(depth=50, style='caffe'), dict(avg_down=True, deep_stem=True)], ids=str
)
def test_is_the_stock_network_without_a_downsampler(kwargs, size):
    stock, ours = build(ResNet, **kwargs), build(CarafeResNet, downsample_cfg=None, **kwargs)
    assert all(torch.equal(a, b) for a, b in zip(stock.parameters(), ours.parameters(), strict=True))
    x = torch.rand(2, 3, *size)
    assert all(torch.equal(a, b) for a, b in zip(ours(x), stock(x), strict=True))


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('name', list(DOWNSAMPLERS))
def test_stock_weights_load_and_sizes_are_the_stock_ones(name, depth):
    stock, ours = build(ResNet, depth=depth), build(CarafeResNet, depth=depth, downsample_cfg=dict(type=name))
    keys = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not keys.unexpected_keys
    new = {key.rsplit('.', 2)[0] for key in keys.missing_keys}
    learned = name in ('carafe', 'strided_conv')
    assert new == ({'maxpool', *(f'layer{i}.downsampler' for i in (2, 3, 4))} if learned else set())
    x = torch.rand(2, 3, 65, 97)
    for out, expected in zip(ours(x), stock(x), strict=True):
        assert out.shape == expected.shape and out.isfinite().all()


def test_only_strided_stages_get_a_downsampler():
    net = build(
        CarafeResNet, downsample_cfg=dict(type='carafe'), strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)
    )
    assert [key for key, m in net.named_modules() if isinstance(m, CarafeDownsample)] == [
        'maxpool',
        'layer2.downsampler',
    ]


def test_a_downsampler_has_the_stride_of_its_stage():
    strides = dict(strides=(2, 4, 1, 3))
    stock, ours = build(ResNet, **strides), build(CarafeResNet, downsample_cfg=dict(type='carafe'), **strides)
    x = torch.rand(1, 3, 129, 200)
    assert [out.shape for out in ours(x)] == [out.shape for out in stock(x)]
    ratios = {key: m.scale_factor for key, m in ours.named_modules() if isinstance(m, CarafeDownsample)}
    assert ratios == {f'layer{i}.downsampler': s for i, s in ((1, 2), (2, 4), (4, 3))} | dict(maxpool=2)


def test_the_first_block_runs_at_the_smaller_size():
    net = build(CarafeResNet, downsample_cfg=dict(type='carafe'), norm_eval=True)
    x = torch.rand(1, 8, 16, 16)
    expected = net.layer2.downsampler(x)
    for block in list(net.layer2)[1:]:
        expected = block(expected)
    assert torch.equal(net.layer2(x), expected) and expected.shape[-2:] == (8, 8)


def test_trains_one_step_after_its_initialisation():
    net = MODELS.build(dict(type='CarafeResNet', downsample_cfg=dict(type='carafe'), **SMALL))
    net.init_weights()
    for module in net.modules():
        if isinstance(module, CarafeDownsample):
            assert module.content_encoder.weight.std().item() == pytest.approx(1e-3, rel=0.1)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    sum(out.square().mean() for out in net(torch.rand(2, 3, 64, 64))).backward()
    optimizer.step()
    for key, p in net.named_parameters():
        if 'maxpool' in key or 'downsampler' in key:
            assert p.grad.isfinite().all() and p.grad.any() and not torch.equal(p, before[key]), key


def test_bad_arguments():
    with pytest.raises(ValueError, match='set avg_down=False to use downsample_cfg'):
        build(CarafeResNet, downsample_cfg=dict(type='carafe'), avg_down=True)
    with pytest.raises(ValueError, match="unknown downsampler 'unpool'"):
        build(CarafeResNet, downsample_cfg=dict(type='unpool'))

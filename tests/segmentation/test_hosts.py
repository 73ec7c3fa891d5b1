# SPDX-License-Identifier: Apache-2.0
"""Every segmentation host against its stock class, and with every upsampler that fits."""

import pytest
import torch

from carafe_plugin.upsamplers import UPSAMPLERS, NearestUpsampler, Upsampler
from tests.segmentation.hosts import HOSTS

# What CI runs of the matrix below; `make test-full` runs all of it.
QUICK = {'carafe', 'deconv'}


def fitting():
    """Host and upsampler, for each upsampler that the host can guide."""
    for host in HOSTS:
        for name in UPSAMPLERS:
            if HOSTS[host].has_guide or not UPSAMPLERS.get(name).needs_guide:
                marks = () if name in QUICK or host == 'uper_fpn' else pytest.mark.slow
                yield pytest.param(host, name, marks=marks)


def upsamplers_of(model):
    return [module for module in model.modules() if isinstance(module, Upsampler)]


@pytest.mark.parametrize('host', HOSTS)
def test_none_is_the_stock_class(host):
    host = HOSTS[host]
    stock, ours = host.stock(), host.build(None, seed=1)
    ours.load_state_dict(stock.state_dict(), strict=True)
    assert not upsamplers_of(ours)
    inputs = host.inputs()
    expected, outs = host.run(stock, inputs), host.run(ours, inputs)
    assert len(outs) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


@pytest.mark.parametrize('host', [name for name in HOSTS if HOSTS[name].same])
def test_the_stock_step_is_the_stock_class(host):
    host = HOSTS[host]
    stock, ours = host.stock(), host.build(dict(type=host.same), seed=1)
    missing = ours.load_state_dict(stock.state_dict(), strict=False)
    assert not missing.missing_keys and not missing.unexpected_keys
    inputs = host.inputs()
    expected, outs = host.run(stock, inputs), host.run(ours, inputs)
    assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


@pytest.mark.parametrize('host', HOSTS)
def test_what_is_not_the_upsamplers_is_initialised_as_in_the_stock_class(host):
    host = HOSTS[host]
    ours, stock = host.build(dict(type='carafe')), host.stock()
    expected = dict(stock.named_parameters())
    for key, p in ours.named_parameters():
        if key in expected and p.numel() >= 256:
            assert p.std().item() == pytest.approx(expected[key].std().item(), rel=0.25), key


@pytest.mark.parametrize('host, name', list(fitting()))
def test_every_upsampler_learns_and_keeps_its_initialisation(host, name):
    host = HOSTS[host]
    model = host.build(dict(type=name))
    found = upsamplers_of(model)
    assert len(found) == host.count
    published = {}
    for up in found:
        torch.manual_seed(0)
        up.init_weights()
        for key, parameter in up.named_parameters():
            published.setdefault(key, []).append(parameter.std().item() if parameter.numel() > 1 else 0.0)
    model = host.build(dict(type=name))
    for index, up in enumerate(upsamplers_of(model)):
        for key, parameter in up.named_parameters():
            if parameter.numel() >= 64:
                assert parameter.std().item() == pytest.approx(published[key][index], rel=0.5), key
    loss = sum(out.square().mean() for out in host.run(model, host.inputs(), training=True))
    loss.backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is None:  # a stock layer that this output does not use
            assert 'upsample' not in key and 'conv_seg' not in key, key
        else:
            assert parameter.grad.isfinite().all(), key
    for up in upsamplers_of(model):
        for key, parameter in up.named_parameters():
            assert parameter.grad.any(), key


@pytest.mark.parametrize('host', [name for name in HOSTS if name not in ('setr_up', 'unet')])
@pytest.mark.parametrize('size', [(37, 101), (31, 33)])
def test_odd_sizes(host, size):
    host = HOSTS[host]
    stock, ours = host.stock(), host.build(dict(type='carafe'))
    inputs = host.inputs(*size)
    shapes = [out.shape for out in host.run(ours, inputs)]
    assert shapes == [out.shape for out in host.run(stock, inputs)]


@pytest.mark.parametrize('host', HOSTS)
def test_stock_weights_load_and_the_rest_are_the_upsamplers(host):
    host = HOSTS[host]
    ours = host.build(dict(type='carafe'))
    keys = ours.load_state_dict(host.stock().state_dict(), strict=False)
    assert not keys.unexpected_keys
    expected = {
        f'{prefix}.{key}'
        for prefix, module in ours.named_modules()
        if isinstance(module, Upsampler)
        for key in module.state_dict()
    }
    assert set(keys.missing_keys) == expected


class Guided(NearestUpsampler):
    """Notes the guides that it gets."""

    needs_guide = True
    seen = ()

    def __init__(self, in_channels, scale_factor=2, *, guide_channels):
        super().__init__(in_channels, scale_factor)
        self.guide_channels = guide_channels

    def forward(self, x, guide=None):
        assert guide.shape[1] == self.guide_channels
        assert all(abs(2 * c - g) < 2 for c, g in zip(x.shape[-2:], guide.shape[-2:], strict=True))
        Guided.seen += (guide,)
        return super().forward(x)


@pytest.mark.parametrize('host', [name for name in HOSTS if HOSTS[name].has_guide])
def test_every_step_gets_a_guide_of_the_finer_size(host):
    host = HOSTS[host]
    Guided.seen = ()
    host.run(host.build(dict(type=Guided)), host.inputs())
    assert len(Guided.seen) == host.count


def test_a_place_without_a_guide_says_so():
    with pytest.raises(ValueError, match='needs a guide'):
        HOSTS['setr_up'].build(dict(type=Guided))


@pytest.mark.parametrize('host', ['fpn', 'maskformer', 'mask2former'])
@pytest.mark.parametrize('change', [-1, 1])
def test_a_map_too_few_or_too_many_is_refused(host, change):
    host = HOSTS[host]
    model, maps = host.build(dict(type='nearest')), list(host.inputs())
    maps = maps[:-1] if change < 0 else [*maps, maps[-1]]
    with pytest.raises(ValueError, match=f'4 maps are expected, of in_channels=.*8, .*32.*got {len(maps)}'):
        host.run(model, maps)

# SPDX-License-Identifier: Apache-2.0
"""What holds for every host: equality with the stock class, and every upsampler that fits learns in it."""

import contextlib
import functools

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.runner import load_checkpoint, save_checkpoint
from torch import nn

import carafe_plugin
from carafe_plugin.detection import UpsampleFPN
from carafe_plugin.upsamplers import UPSAMPLERS, Upsampler, build_upsampler

C = 64  # every upsampler's groups divide it
YOLO = dict(in_channels=[32, C, C], out_channels=C, num_csp_blocks=1)
FPN = dict(in_channels=[8, 16, 24, 32], out_channels=C, num_outs=5)
PANOPTIC = dict(num_things_classes=3, num_stuff_classes=2, in_channels=16, inner_channels=C)
MASK = dict(num_convs=1, in_channels=16, conv_out_channels=C, num_classes=3)
#: Host: its arguments, whether it has a guide, the number of upsamplers, the stock step.
HOSTS = {
    'UpsampleFPN': (FPN, True, 3, 'nearest'),
    'UpsampleFPNCARAFE': (FPN, True, 4, 'nearest'),
    'UpsamplePAFPN': (FPN, True, 3, 'nearest'),
    'UpsampleYOLOXPAFPN': (YOLO, True, 2, 'nearest'),
    'UpsampleCSPNeXtPAFPN': (YOLO, True, 2, 'nearest'),
    'UpsampleFCNMaskHead': (MASK, False, 1, 'deconv'),
    'UpsamplePanopticFPNHead': (PANOPTIC, False, 6, 'bilinear'),
}


class Guided(Upsampler):
    """The least that reads its guide: repeated pixels times a gate."""

    needs_guide = True

    def __init__(self, in_channels, scale_factor=2, *, guide_channels=None):
        super().__init__(in_channels, scale_factor)
        self.gate = nn.Conv2d(guide_channels, in_channels, 1)

    def init_weights(self):
        nn.init.normal_(self.gate.weight, std=0.01)
        nn.init.constant_(self.gate.bias, 0.5)

    def forward(self, x, guide=None):
        up = x.repeat_interleave(self.scale_factor, 2).repeat_interleave(self.scale_factor, 3)
        rows, columns = guide.shape[-2:]
        gate = nn.functional.pad(self.gate(guide), (0, up.shape[3] - columns, 0, up.shape[2] - rows))
        return up * gate


def build(name, upsample_cfg, seed=0, **more):
    torch.manual_seed(seed)
    host = MODELS.build(dict(type=name, **{**HOSTS[name][0], **more}, upsample_cfg=upsample_cfg))
    host.init_weights()
    return host


def inputs(name, odd=False, seed=1):
    """Maps as the host gets them, of strides 4 (YOLO: 8) to 32."""
    torch.manual_seed(seed)
    arguments = HOSTS[name][0]
    if name == 'UpsampleFCNMaskHead':
        return torch.randn(3, arguments['in_channels'], 14, 14)
    channels = arguments['in_channels'] if 'Panoptic' not in name else [arguments['in_channels']] * 4
    sizes = [(13, 25), (7, 13), (4, 7), (2, 4)] if odd else [(16, 24), (8, 12), (4, 6), (2, 3)]
    return tuple(torch.randn(2, c, *size) for c, size in zip(channels, sizes[-len(channels) :], strict=True))


def outputs(host, x):
    """All output maps as a tuple."""
    out = host(x)
    return (out,) if isinstance(out, torch.Tensor) else tuple(out.values() if isinstance(out, dict) else out)


def upsamplers(host):
    return [m for m in host.modules() if isinstance(m, Upsampler)]


@pytest.fixture
def patched():
    carafe_plugin.patch_mmcv()
    yield
    carafe_plugin.unpatch_mmcv()


@pytest.mark.parametrize('upsample_cfg', [None, 'same'], ids=['none', 'same'])
@pytest.mark.parametrize('name', HOSTS)
def test_equals_the_stock_host(patched, name, upsample_cfg):
    """Bit for bit with no upsampler, and with the one that the stock class has."""
    step = HOSTS[name][3]
    # The stock step of FPN_CARAFE is mmcv's CARAFE; with `nearest` it is one of ours too.
    of_stock = dict(upsample_cfg=dict(type=step)) if 'FPNCARAFE' in name and upsample_cfg else {}
    torch.manual_seed(0)
    stock_name = name.removeprefix('Upsample').replace('FPNCARAFE', 'FPN_CARAFE')
    stock = MODELS.build(dict(type=stock_name, **HOSTS[name][0], **of_stock))
    ours = build(name, upsample_cfg and dict(type=step), seed=5)
    ours.load_state_dict(stock.state_dict(), strict=True)
    # The other stock classes join maps of which each must be twice the size of the next.
    for odd in (False, True) if HOSTS[name][0] is FPN else (False,):
        x = inputs(name, odd)
        expected, outs = outputs(stock, x), outputs(ours, x)
        assert len(outs) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


def test_extra_levels_of_fpn_carafe_come_one_from_the_other():
    """With two of them, the second has the first one's lateral for its source, as in the stock class."""
    arguments = dict(FPN, num_outs=6)
    stock = MODELS.build(dict(type='FPN_CARAFE', **arguments, upsample_cfg=dict(type='nearest')))
    ours = build('UpsampleFPNCARAFE', dict(type='nearest'), num_outs=6)
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = inputs('UpsampleFPNCARAFE', odd=True)
    expected = stock(x)
    assert len(expected) == 6
    assert all(torch.equal(a, b) for a, b in zip(ours(x), expected, strict=True))


def test_bilinear_equals_fpn_carafes():
    stock = MODELS.build(dict(type='FPN_CARAFE', **FPN, upsample_cfg=dict(type='bilinear')))
    ours = build('UpsampleFPNCARAFE', dict(type='bilinear'))
    ours.load_state_dict(stock.state_dict(), strict=True)
    x = inputs('UpsampleFPNCARAFE', odd=True)
    assert all(torch.equal(a, b) for a, b in zip(ours(x), stock(x), strict=True))


def cells():
    """Every host with every fitting upsampler; CI runs FPN with all and the other hosts with two."""
    for host, (_, has_guide, *_) in HOSTS.items():
        for kind in (Guided, *UPSAMPLERS):
            cls = UPSAMPLERS.get(kind) if isinstance(kind, str) else kind
            if has_guide or not cls.needs_guide:
                quick = host == 'UpsampleFPN' or kind in ('carafe', Guided)
                name = kind if isinstance(kind, str) else 'guided'
                yield pytest.param(host, kind, id=f'{host}-{name}', marks=[] if quick else [pytest.mark.slow])


@pytest.mark.parametrize('name, kind', list(cells()))
def test_every_upsampler_learns_and_is_stored(name, kind, tmp_path):
    host = build(name, dict(type=kind))
    if not (name == 'UpsampleFCNMaskHead' and kind == 'deconv'):  # which is the stock layer
        assert len(upsamplers(host)) == HOSTS[name][2]
    before = {key: p.detach().clone() for key, p in host.named_parameters()}
    optimizer = torch.optim.SGD(host.parameters(), lr=0.1)
    x = inputs(name, odd=HOSTS[name][1])
    sum(out.square().mean() for out in outputs(host, x)).backward()
    optimizer.step()
    for key, p in host.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.any(), key
        assert not torch.equal(p, before[key]), key

    host.eval()
    file = str(tmp_path / 'host.pth')
    save_checkpoint(dict(state_dict=host.state_dict()), file)
    other = build(name, dict(type=kind), seed=5).eval()
    load_checkpoint(other, file, strict=True)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(outputs(host, x), outputs(other, x), strict=True))


@pytest.mark.parametrize('name, kind', list(cells()))
def test_init_weights_keeps_each_upsamplers_own(name, kind):
    """The hosts' own initialisation (Xavier, Kaiming) reaches every convolution inside of them."""
    for upsampler in upsamplers(build(name, dict(type=kind))):
        torch.manual_seed(7)
        alone = build_upsampler(dict(type=kind), upsampler.in_channels, guide_channels=upsampler.in_channels)
        alone.init_weights()
        for (key, p), q in zip(upsampler.named_parameters(), alone.parameters(), strict=True):
            if q.numel() >= 256 and q.std() > 0:
                assert p.std().item() == pytest.approx(q.std().item(), rel=0.2), key
            elif q.numel() == 1 or q.std() == 0:
                assert torch.equal(p, q), key


def test_stock_weights_load_and_the_rest_is_named_upsamplers():
    for name in HOSTS:
        if name in ('UpsampleFCNMaskHead', 'UpsampleFPNCARAFE'):  # have tests of their own
            continue
        stock = MODELS.build(dict(type=name.removeprefix('Upsample'), **HOSTS[name][0]))
        keys = build(name, dict(type='carafe')).load_state_dict(stock.state_dict(), strict=False)
        assert not keys.unexpected_keys
        assert keys.missing_keys and all('upsamplers.' in key for key in keys.missing_keys)


def spy(seen, forward, x, guide):
    seen.append(guide)
    return forward(x, guide)


@pytest.mark.parametrize('name', [name for name in HOSTS if HOSTS[name][1]])
def test_a_guided_upsampler_gets_the_finer_map(name, monkeypatch):
    host, seen = build(name, dict(type=Guided)), []
    for upsampler in host.upsamplers:
        monkeypatch.setattr(upsampler, 'forward', functools.partial(spy, seen, upsampler.forward))
    x = inputs(name, odd=True)
    host(x)
    levels = list(range(HOSTS[name][2]))[::-1]
    for guide, level in zip(seen, levels, strict=True):
        if HOSTS[name][0] is YOLO:
            assert guide is x[level]
        elif level < 3:
            assert torch.equal(guide, host.lateral_convs[level](x[level]))
        else:
            assert torch.equal(guide, host.lateral_convs[3](x[3]))


@pytest.mark.parametrize('name', [name for name in HOSTS if not HOSTS[name][1]])
def test_a_place_without_a_guide_refuses_a_guided_upsampler(name):
    with pytest.raises(
        ValueError, match=r'Guided.* needs a guide .* set upsample_cfg.type to one of .*carafe'
    ):
        build(name, dict(type=Guided))


@pytest.mark.parametrize('name', ['UpsampleYOLOXPAFPN', 'UpsampleCSPNeXtPAFPN'])
def test_concatenating_necks_take_odd_sizes_and_name_what_does_not_fit(name):
    host = build(name, dict(type='nearest'))
    assert [tuple(out.shape[-2:]) for out in host(inputs(name, odd=True))] == [(7, 13), (4, 7), (2, 4)]
    *fine, _ = inputs(name)
    with pytest.raises(ValueError, match=r'upsampled by 2 to \(18, 18\) does not fit size \(4, 6\)'):
        host((*fine, torch.rand(2, C, 9, 9)))


def test_the_stock_field_of_yolox_is_told_apart():
    """mmdet's YOLOX configs set ``upsample_cfg=dict(scale_factor=2, mode='nearest')``."""
    with pytest.raises(TypeError, match=r"no argument 'mode'.*_delete_=True"):
        build('UpsampleYOLOXPAFPN', dict(scale_factor=2, mode='nearest', type='carafe'))


def test_topologies(patched):
    """FPN_CARAFE and ours have four stages, FPN three; the names differ in one word."""
    zoo = MODELS.build(dict(type='FPN_CARAFE', **FPN))
    four = build('UpsampleFPNCARAFE', dict(type='carafe'))
    three = build('UpsampleFPN', dict(type='carafe'))
    stock = build('UpsampleFPNCARAFE', None)
    renamed = {key.replace('upsample_modules.', 'upsamplers.'): p.shape for key, p in zoo.named_parameters()}
    assert renamed == {key: p.shape for key, p in four.named_parameters()}
    assert {key for key, _ in stock.named_parameters()} == {key for key, _ in zoo.named_parameters()}

    extra = {key for key, _ in four.named_parameters()} - {key for key, _ in three.named_parameters()}
    assert {key.rsplit('.', 1)[0] for key in extra} == {
        'lateral_convs.4.conv',
        'fpn_convs.4.conv',
        'upsamplers.3.channel_compressor',
        'upsamplers.3.content_encoder',
    }
    assert {key for key, _ in three.named_parameters()} < {key for key, _ in four.named_parameters()}


@pytest.mark.parametrize('loader', [nn.Module.load_state_dict, 'mmengine'])
def test_weights_of_fpn_carafe_load(patched, loader, tmp_path):
    torch.manual_seed(0)
    zoo, ours = MODELS.build(dict(type='FPN_CARAFE', **FPN)), build('UpsampleFPNCARAFE', dict(type='carafe'))
    zoo.init_weights()
    for p in zoo.parameters():  # biases too, and kernels far from a plain mean
        nn.init.normal_(p, std=0.1)
    holder = nn.ModuleDict(dict(neck=ours))
    state = {f'neck.{key}': value for key, value in zoo.state_dict().items()}
    if loader == 'mmengine':
        torch.save(dict(state_dict=state), tmp_path / 'zoo.pth')
        load_checkpoint(holder, str(tmp_path / 'zoo.pth'), strict=True)
    else:
        holder.load_state_dict(state, strict=True)
    x = inputs('UpsampleFPNCARAFE', odd=True)
    for a, b in zip(ours(x), zoo(x), strict=True):
        torch.testing.assert_close(a, b)


def test_parameters_of_the_two_topologies():
    wide = dict(in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5)
    three, three_carafe, four, four_carafe = (
        sum(p.numel() for p in build(host, dict(type=name), **wide).parameters())
        for host in ('UpsampleFPN', 'UpsampleFPNCARAFE')
        for name in ('nearest', 'carafe')
    )
    # A 3x3 lateral on 2048 channels and a 3x3 output convolution, with biases: 5.309 M as published.
    assert four - three == (9 * 2048 + 1) * 256 + (9 * 256 + 1) * 256 == 5_308_928
    assert three_carafe - three == 3 * 74_148
    assert four_carafe - four == 4 * 74_148


def test_init_statistics_in_a_whole_model(tmp_path):
    from mmengine.config import Config

    from tests.runtime.helpers import write_detector_config

    cfg = Config.fromfile(write_detector_config(tmp_path / 'config.py', tmp_path))
    model = MODELS.build(cfg.model)
    model.init_weights()
    found = upsamplers(model)
    assert len(found) == 4
    for up in found:
        assert up.content_encoder.weight.std().item() == pytest.approx(1e-3, rel=0.05)
    assert isinstance(model.neck, UpsampleFPN)


@pytest.mark.parametrize('name', [name for name, case in HOSTS.items() if 'FPN' in name])
@pytest.mark.parametrize('change', [-1, 1])
def test_a_map_too_few_or_too_many_is_refused(name, change):
    """The stock necks assert it; the panoptic head takes the first of many, as the stock head does."""
    maps = inputs(name)
    maps = maps[:-1] if change < 0 else (*maps, maps[-1])
    host = build(name, dict(type='nearest'))
    if name == 'UpsamplePanopticFPNHead':
        with pytest.raises(AssertionError) if change < 0 else contextlib.nullcontext():
            host(maps)
        return
    message = f'{len(maps) - change} maps are expected, of in_channels=.*, got {len(maps)}: .2, '
    with pytest.raises(ValueError, match=message):
        host(maps)

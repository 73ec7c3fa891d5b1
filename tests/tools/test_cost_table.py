# SPDX-License-Identifier: Apache-2.0
"""Published costs against what the modules count, and the tool that tabulates them."""

import copy
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from carafe_plugin.ops import _native
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.costs import upsampler_cost
from tests.runtime.helpers import load_tool

cost_table = load_tool('cost_table')
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    'cpu' not in _native.loaded, reason='costs are counted on the native operators'
)

# Published FLOPs per input pixel at 256 channels, 2 for a multiply-add: the CARAFE paper's tables 2, 8 and 9.
FLOPS = [
    (dict(type='nearest'), 0),
    (dict(type='bilinear'), 8_192),
    (dict(type='nearest_conv'), 4.7e6),
    (dict(type='bilinear_conv'), 4.7e6),
    (dict(type='deconv'), 1.18e6),
    (dict(type='pixel_shuffle'), 4.7e6),
    (dict(type='gum'), 1.1e6),
    (dict(type='spatial_attention'), 28e3),
    *(
        (dict(type='carafe', **arguments), published)
        for arguments, published in [
            (dict(), 199e3),
            (dict(compressed_channels=16), 88e3),
            (dict(compressed_channels=32), 125e3),
            (dict(compressed_channels=128), 348e3),
            (dict(compressed_channels=256), 644e3),
            (dict(compressed_channels=None), 512e3),
            (dict(encoder_kernel=1, up_kernel=3), 56e3),
            (dict(encoder_kernel=1, up_kernel=5), 97e3),
            (dict(encoder_kernel=3, up_kernel=3), 93e3),
            (dict(encoder_kernel=3, up_kernel=7), 359e3),
            (dict(encoder_kernel=5, up_kernel=5), 404e3),
            (dict(encoder_kernel=5, up_kernel=7), 761e3),
            (dict(encoder_kernel=7, up_kernel=7), 1363e3),
        ]
    ),
]

# Published giga-MACs of the six steps of SegFormer-B1 at 512 x 512 pixels, 14,592 input pixels in all.
# SAPA-D's 5.3 counts 8 MACs for a bilinear value, where this project counts 8 FLOPs. A2U stands below.
SEGFORMER = [
    (dict(type='carafe'), 1.45),
    (dict(type='pixel_shuffle'), 34.4),
    (dict(type='indexnet'), 30.65),
    (dict(type='fade', gate=True), 2.65),
    (dict(type='fade_lite', gate=True), 0.89),
    (dict(type='sapa', similarity='inner'), 0.75),
    (dict(type='sapa', similarity='bilinear'), 1.02),
]

# Published additions to Faster R-CNN's 46.8 M parameters, four stages, in millions.
DETECTION = [
    (dict(type='deconv'), '2.4'),
    (dict(type='pixel_shuffle'), '9.4'),
    (dict(type='carafe'), '0.3'),
    (dict(type='indexnet'), '8.4'),
    (dict(type='fade'), '0.2'),
    (dict(type='sapa', similarity='inner'), '0.0'),
    (dict(type='sapa'), '0.1'),
    (dict(type='sapa_deform'), '0.6'),
]


def label(cfg):
    return '-'.join(map(str, cfg.values())) if isinstance(cfg, dict) else ''


@pytest.mark.parametrize('cfg, published', FLOPS, ids=label)
def test_published_flops(cfg, published):
    """To the last digit printed, but for CARAFE's biases, which the paper counts as multiply-adds."""
    assert upsampler_cost(cfg).flops == pytest.approx(published, rel=0.03 if published > 1e6 else 0.015)


@pytest.mark.parametrize('cfg, published', SEGFORMER, ids=label)
def test_published_giga_macs_of_segformer(cfg, published):
    assert upsampler_cost(cfg).macs * 14_592 / 1e9 == pytest.approx(published, rel=0.02)


def test_published_giga_macs_of_a2u():
    """Its two windows of 6 x 6 run as 7 x 7 ones with a row and a column of zeros."""
    zeros = 2 * (7**2 - 6**2) * 256
    assert (upsampler_cost(dict(type='a2u')).macs - zeros) * 14_592 / 1e9 == pytest.approx(0.41, rel=0.02)


@pytest.mark.parametrize('cfg, published', DETECTION, ids=label)
def test_published_parameters_of_detectors(cfg, published):
    assert f'{4 * upsampler_cost(cfg).parameters / 1e6:.1f}' == published


@pytest.mark.parametrize('cfg, added', [(dict(), 32.7), (dict(dyscope=True), 65.5)])
def test_published_parameters_of_dysample_detectors(cfg, added):
    """In thousands, biases left out."""
    assert 4 * upsampler_cost(dict(type='dysample', **cfg)).weights / 1e3 == pytest.approx(added, abs=0.1)


def test_costs_are_per_pixel_and_grow_with_channels_and_ratio():
    carafe = dict(type='carafe')
    assert upsampler_cost(carafe, 512).flops > upsampler_cost(carafe).flops
    nine, four = (upsampler_cost(dict(type='bilinear'), 64, s).flops for s in (3, 2))
    assert nine * 4 == four * 9


def test_the_documented_table_is_the_tool_s(capsys):
    cost_table.main([])
    assert capsys.readouterr().out in (ROOT / 'docs' / 'upsamplers.md').read_text()


def test_chosen_upsamplers_as_json(capsys):
    cost_table.main(['--types', 'carafe', 'fade', '--channels', '128', '--format', 'json'])
    rows = json.loads(capsys.readouterr().out)
    assert [row['upsampler'] for row in rows] == ['carafe', 'fade']
    assert rows[0]['weights'] + rows[0]['biases, norms'] == 128 * 64 + 64 + 64 * 900 + 100


def test_a_ratio_leaves_out_what_is_not_defined_for_it(capsys):
    cost_table.main(['--scale-factor', '3', '--channels', '36', '--format', 'json'])
    names = {row['upsampler'] for row in json.loads(capsys.readouterr().out)}
    assert 'carafe' in names and not names & {'a2u', 'indexnet'}


def test_an_upsampler_of_the_configs_own(tmp_path, monkeypatch, capsys):
    """It is registered by the config's custom_imports alone."""
    (tmp_path / 'my_nearest.py').write_text(
        'from carafe_plugin.upsamplers import UPSAMPLERS, NearestUpsampler\n'
        "UPSAMPLERS.register_module('my_nearest')(type('MyNearest', (NearestUpsampler,), {}))\n"
    )
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{ROOT}/configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'\n"
        "custom_imports = dict(imports=['carafe_plugin.detection', 'my_nearest'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(UPSAMPLERS, '_classes', dict(UPSAMPLERS._classes))
    cost_table.main([str(tmp_path / 'config.py'), '--types', 'my_nearest', '--shape', '64', '64'])
    assert '| my_nearest' in capsys.readouterr().out


@pytest.mark.parametrize(
    'argv, message',
    [
        (['--types', 'caraf'], "error: --types: unknown upsampler 'caraf'; known: a2u, bilinear"),
        (['--types', 'stock'], "error: --types: unknown upsampler 'stock'; known: a2u, bilinear"),
        (['--types', 'a2u', '--scale-factor', '3'], 'error: a2u is defined for scale_factor=2 only, got 3'),
        (['nowhere.py'], 'error: config nowhere.py does not exist'),
        (['--channels', '6', '--types', 'dysample'], 'in_channels must be divisible by groups=4, got 6'),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit):
        cost_table.main(argv)
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.slow
def test_detectors(capsys):
    config = str(ROOT / 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py')
    cost_table.main([config, '--types', 'nearest', 'carafe', '--shape', '64', '64', '--format', 'json'])
    nearest, carafe = json.loads(capsys.readouterr().out)
    assert carafe['GMACs'] >= nearest['GMACs']
    added = carafe['parameters (M)'] - nearest['parameters (M)']
    of_one = 64 * 64 + 64 + 9 * 64 * 100 + 100  # the quick start's neck has 64 channels
    assert added == pytest.approx(3 * of_one / 1e6, abs=2e-3)


@pytest.mark.slow
def test_a_detector_costs_the_same_whatever_its_random_weights():
    cfg = Config.fromfile(ROOT / 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py')
    seen = set()
    for seed in range(3):
        torch.manual_seed(seed)
        seen.add(cost_table.model_cost(cfg, copy.deepcopy(cfg.model), (64, 96)))
    assert len(seen) == 1

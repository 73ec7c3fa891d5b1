# SPDX-License-Identifier: Apache-2.0
"""Whole released models, in the layouts of their repositories, load into this project's hosts and configs."""

import re

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint

import carafe_plugin.detection  # noqa: F401
from tests.runtime.helpers import run_tool, write_coco, write_detector_config
from tests.segmentation.hosts import HOSTS
from tests.upsamplers.test_published import RELEASED, C, dysample, freqfusion, released

NECK = dict(in_channels=[4, 8, 12, 16], out_channels=C, num_outs=5)
HOST_ARGUMENTS = dict(
    UpsampleFPN=dict(type='mmdet.UpsampleFPN', **NECK),
    UpsampleFPNCARAFE=dict(type='mmdet.UpsampleFPNCARAFE', **NECK),
    UpsampleUPerHead=dict(type='mmseg.UpsampleUPerHead', **HOSTS['uper_fpn'].cfg | dict(channels=C)),
    UpsampleSegformerHead=dict(
        type='mmseg.UpsampleSegformerHead', **HOSTS['segformer'].cfg | dict(channels=C)
    ),
)
#: A released class: the host here, the list of upsamplers there, and each of them here.
LISTS = {
    'FPN_UPSAMPLE': ('UpsampleFPN', 'upsample_modules', ['0', '1', '2']),
    'FreqFusionCARAFEFPN': ('UpsampleFPNCARAFE', 'alignment', ['0', '1', '2', '3']),
    'FPN_CARAFE': ('UpsampleFPNCARAFE', 'upsample_modules', ['0', '1', '2', '3']),
    'UPerHead_Upsample': ('UpsampleUPerHead', 'upsample_modules', ['fpn.0', 'fpn.1', 'fpn.2']),
    # From the coarsest map on, and there from its coarsest step on.
    'SegformerHead_Upsample': (
        'UpsampleSegformerHead',
        'upsample_modules',
        ['2.2', '2.1', '2.0', '1.1', '1.0', '0.0'],
    ),
}


def build(kind, upsample_cfg):
    """A host with random weights."""
    cfg = dict(fpn=upsample_cfg) if kind == 'UpsampleUPerHead' else upsample_cfg
    model = MODELS.build(ConfigDict(HOST_ARGUMENTS[kind], upsample_cfg=cfg))
    for p in model.parameters():
        torch.nn.init.normal_(p)
    return model


def as_released(state, layout, name, count):
    """A state dict of ours in which released upsamplers stand in the place of ours."""
    ours = re.compile(r'(.*\.)?upsamplers\.')
    prefix = next(match[1] or '' for match in map(ours.match, state) if match)
    theirs = {key: value for key, value in state.items() if not ours.match(key)}
    for index in range(count):
        upsampler = released(layout, seed=index)
        theirs |= {f'{prefix}{name}.{index}.{key}': value for key, value in upsampler.items()}
    return theirs


@pytest.mark.parametrize(
    ('there', 'upsampler'),
    [
        *(('FPN_UPSAMPLE', name) for name in ('dysample', 'dysample+', 'sapa', 'sapa_deform', 'fade', 'a2u')),
        ('FreqFusionCARAFEFPN', 'freqfusion'),
        ('FPN_CARAFE', 'deconv'),
        *(('UPerHead_Upsample', name) for name in ('dysample', 'sapa_deform', 'fade')),
        *(('SegformerHead_Upsample', name) for name in ('dysample', 'fade', 'sapa')),
    ],
)
def test_hosts(there, upsampler):
    """Each released upsampler goes where it stood; the rest of the host has the same names on both sides."""
    kind, name, places = LISTS[there]
    layout, cfg, names = RELEASED[upsampler]
    theirs = as_released(build(kind, cfg).state_dict(), layout, name, len(places))
    model = build(kind, cfg)
    model.load_state_dict(theirs, strict=True)
    ours = model.state_dict()
    for index, place in enumerate(places):
        for key, renamed in names.items():
            expected = theirs[f'{name}.{index}.{key}']
            assert torch.equal(ours[f'upsamplers.{place}.{renamed}'], expected), place
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if name not in key)


def test_a_wrong_config_stops_a_load_that_is_not_strict():
    theirs = as_released(
        build('UpsampleFPN', dict(type='dysample')).state_dict(), dysample('pl'), 'upsample_modules', 3
    )
    with pytest.raises(ValueError, match='set groups=4 in upsample_cfg'):
        build('UpsampleFPN', dict(type='dysample', style='pl')).load_state_dict(theirs, strict=False)


def write_released_detector(folder):
    """A config of this project at a small size, and a checkpoint as FreqFusion's fork of mmdet 2 has it."""
    write_coco(folder / 'data')
    write_detector_config(folder / 'base.py', folder / 'data')
    config = folder / 'config.py'
    config.write_text(f"""
_base_ = 'base.py'
model = dict(
    neck=dict(
        type='UpsampleFPNCARAFE', out_channels={C}, upsample_cfg=dict(_delete_=True, type='freqfusion')),
    rpn_head=dict(in_channels={C}),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels={C}), bbox_head=dict(in_channels={C}),
        mask_roi_extractor=dict(out_channels={C}), mask_head=dict(in_channels={C})))
""")
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        theirs = as_released(MODELS.build(cfg.model).state_dict(), freqfusion(), 'alignment', 4)
    meta = dict(mmdet_version='2.28.1', CLASSES=('red', 'blue'), epoch=12, iter=7, config='model = dict()')
    torch.save(dict(meta=meta, state_dict=theirs, optimizer=dict(state={})), folder / 'released.pth')
    return config, theirs


def test_a_detector_of_a_fork_of_mmdet_2(tmp_path):
    config, theirs = write_released_detector(tmp_path)
    cfg = Config.fromfile(config)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    load_checkpoint(model, str(tmp_path / 'released.pth'), strict=True)
    ours = model.state_dict()
    for index in range(4):
        key = 'hr_channel_compressor.weight'
        expected = theirs[f'neck.alignment.{index}.{key}']
        assert torch.equal(ours[f'neck.upsamplers.{index}.{key}'], expected)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if '.alignment.' not in key)


@pytest.mark.slow
def test_the_tool_evaluates_it(tmp_path):
    config, _ = write_released_detector(tmp_path)
    arguments = [config, tmp_path / 'released.pth', '--work-dir', tmp_path / 'work']
    code = run_tool('test', arguments, tmp_path / 'log')
    log = (tmp_path / 'log').read_text()
    assert code == 0, log
    assert 'unexpected key' not in log and 'missing keys' not in log
    assert 'coco/bbox_mAP' in log

# SPDX-License-Identifier: Apache-2.0
"""The probe configs build, hold the papers' figures, and are listed."""

import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, OptimWrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope

import carafe_plugin.probes
import carafe_plugin.segmentation  # noqa: F401
from carafe_plugin.runtime.errors import UserError
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.preflight import check_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'configs' / 'probes'
FILES = sorted(path.stem for path in FOLDER.glob('*.py'))
ADE = 'linear_vit-s14_carafe_20e_ade20k151-448'
CLASSES = dict(voc=21, ade20k151=151, cityscapes=19)


def load(name, **options):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    # A block says whether it builds; the weights are the user's.
    cfg.merge_from_dict({'model.backbone.weights': None, 'model.backbone.num_layers': 1, **options})
    return cfg


def without_data(**options):
    """A config whose data set nobody knows, so that no file is looked for."""
    cfg = load('linear_vit-s14_carafe_20e_voc-448', **options)
    cfg.train_dataloader.dataset = dict(type='Unseen', pipeline=cfg.train_dataloader.dataset.pipeline)
    return cfg


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('name', FILES)
def test_builds_and_says_how_it_is_run(name):
    cfg, text = load(name), (FOLDER / f'{name}.py').read_text()
    model = build(cfg)
    assert f'python tools/train.py configs/probes/{name}.py\n' in text
    side = int(name.rsplit('-', 1)[1])
    crops = [step.size for step in cfg.train_dataloader.dataset.pipeline if step.type == 'ResizeCenterCrop']
    assert crops == [side] and tuple(cfg.model.data_preprocessor.size) == (side, side)
    patch = 14 if 's14' in name else 16
    assert model.backbone.patch_size == patch and side % patch == 0
    assert model.backbone.position_rule == {14: 'antialias', 16: 'offset'}[patch]
    assert model.backbone.channel_norm == (patch == 16)
    assert model.neck.scale_factor == 16 and len(model.neck.upsamplers) == 4
    if name.startswith('linear'):
        data = name.split('_')[-1].rsplit('-', 1)[0]
        assert model.decode_head.num_classes == CLASSES.get(data, 27)
        assert model.decode_head.at_features == (patch == 16)


def test_schedules():
    """Learning rates after each iteration of two epochs of 30, over a run of 20 epochs."""
    rates = {}
    for variant in ('', '-anyup', '-naf'):
        cfg = load(ADE.replace('20e', f'20e{variant}'))
        (schedule,) = cfg.param_scheduler
        optimizer = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=cfg.optim_wrapper.optimizer.lr)
        arguments = dict(schedule, optimizer=OptimWrapper(optimizer))
        del arguments['type']
        if arguments.pop('convert_to_iter_based', False):
            scheduler = CosineAnnealingLR.build_iter_from_epoch(epoch_length=30, **arguments)
        else:
            scheduler = CosineAnnealingLR(**arguments)
        seen = rates[variant] = []
        for iteration in range(1, 61):
            if not arguments['by_epoch'] or variant == '-naf' or iteration % 30 == 0:
                scheduler.step()
            seen.append(optimizer.param_groups[0]['lr'])
    assert PARAM_SCHEDULERS.get('CosineAnnealingLR') is CosineAnnealingLR
    swing = [2.5e-4 * (1 + math.cos(math.pi * i / 20)) for i in range(1, 61)]
    assert rates[''] == pytest.approx(swing, abs=1e-9)  # from 5e-4 to 0 and back in 40 iterations
    first = 2.5e-4 * (1 + math.cos(math.pi / 20))
    assert rates['-anyup'][:29] == [5e-4] * 29 and rates['-anyup'][29:59] == pytest.approx([first] * 30)
    smooth = [2.5e-4 * (1 + math.cos(math.pi * i / 600)) for i in range(1, 61)]
    assert rates['-naf'] == pytest.approx(smooth)


@pytest.mark.slow
@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_every_upsampler_by_an_option(name):
    upsampler = build(load(ADE, **{'model.neck.upsample_cfg.type': name})).neck.upsamplers[3]
    assert type(upsampler) is UPSAMPLERS.get(name)


def test_configs_are_listed():
    models = yaml.safe_load((FOLDER / 'metafile.yml').read_text())['Models']
    assert sorted(model['Name'] for model in models) == FILES
    readme = (ROOT / 'configs' / 'README.md').read_text()
    assert all(f'(probes/{name}.py)' in readme for name in FILES)


@pytest.mark.parametrize(
    'options, message',
    [
        ({'model.cache': 'x'}, 'model.cache=x keeps one picture of each image, and RandomFlip in train_'),
        (
            {'model.backbone.weights': 'nowhere.pth'},
            'the model cannot be built: backbone weights nowhere.pth',
        ),
        ({'model.neck.upsample_cfg.type': 'caraf'}, "the model cannot be built: unknown upsampler 'caraf'"),
    ],
)
def test_mistakes_are_told_before_a_run(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_config(without_data(**options), ('train',))


def test_flips_of_probability_0_leave_one_picture():
    options = {'model.cache': 'x', 'train_dataloader.dataset.pipeline.3.prob': 0}
    check_config(without_data(**options), ('train',))

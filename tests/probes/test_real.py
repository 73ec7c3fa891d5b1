# SPDX-License-Identifier: Apache-2.0
"""Each probe config on real images: twenty iterations at a quarter of the size, an evaluation.

Features are those of three random blocks, in the layout of the config's backbone: this shows that data,
losses, classes and evaluation work, not what they reach.
"""

import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.runtime.helpers import ROOT, run_tool
from tests.segmentation import real

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(real.DATA is None, reason='CARAFE_REAL_DATA is not set'),
]
SPLITS = ('train', 'val', 'test')
SIDE = 112  # of 14 and of 16 pixels alike


def ade20k(folder):
    """Twenty pairs to train on, in two epochs, and thirteen others."""
    options = {'train_cfg.max_epochs': 2, 'train_dataloader.dataset.indices': 20}
    options['val_dataloader.dataset.indices'] = str(list(range(20, 33))).replace(' ', '')
    for split in SPLITS:
        dataset = f'{split}_dataloader.dataset'
        options |= {f'{dataset}.data_root': f'{real.DATA}/ade20k_val_33'}
        options |= {f'{dataset}.data_prefix.img_path': 'images'}
        options |= {f'{dataset}.data_prefix.seg_map_path': 'annotations'}
    return options


def voc(folder):
    """Four pairs, the same for evaluation, in ten epochs."""
    real.voc(folder)
    roots = {f'{split}_dataloader.dataset.data_root': folder for split in SPLITS}
    return {'train_cfg.max_epochs': 10, **roots}


def coco_stuff(folder):
    """Forty images with COCO's own labels, and thirty-four others."""
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.indices': 40}
    return options | real.coco_stuff(folder)


def depth(folder):
    """Forty images of COCO with made-up depth: far above, near below, brighter nearer."""
    for split in ('train2017', 'val2017'):
        for kind in (split, f'depth/{split}'):
            (folder / kind).mkdir(parents=True)
    for index, path in enumerate(sorted(Path(real.DATA, 'coco_val2017_100', 'val2017').glob('*.jpg'))[:60]):
        split = 'train2017' if index < 40 else 'val2017'
        (folder / split / path.name).symlink_to(path)
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        values = 5000 - 4000 * np.linspace(0, 1, len(grey))[:, None] - 2 * grey
        cv2.imwrite(str(folder / 'depth' / split / f'{path.stem}.png'), values.astype(np.uint16))
    roots = {f'{split}_dataloader.dataset.data_root': folder for split in SPLITS}
    return {'train_cfg.max_epochs': 1, **roots}


def label_free(folder):
    """Forty images, batches of two instead of four."""
    real.coco_stuff(folder)
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.indices': 40}
    options |= {'train_dataloader.batch_size': 2, 'train_dataloader.dataset.data_root': folder}
    return options | {'model.max_pad': 10}


CASES = {
    'linear_vit-s14_carafe_20e_voc-448': (voc, 'mIoU'),
    'linear_vit-s14_carafe_20e_coco-stuff27-448': (coco_stuff, 'mIoU'),
    'linear_vit-s14_carafe_20e_ade20k151-448': (ade20k, 'mIoU'),
    'linear_vit-s14_carafe_20e-anyup_ade20k151-448': (ade20k, 'mIoU'),
    'linear_vit-s14_carafe_20e-naf_ade20k151-448': (ade20k, 'mIoU'),
    'linear_vit-s16_carafe_200e_coco-stuff27-224': (coco_stuff, 'mIoU'),
    'depth-bins_vit-s14_carafe_5e_coco-448': (depth, 'rmse'),
    'depth_vit-s16_carafe_200e_coco-224': (depth, 'rmse'),
    'label-free_vit-s16_carafe_1e_coco-stuff-224': (label_free, None),
}


def options_for(name, prepare, folder):
    options = prepare(folder)
    options |= {
        'model.backbone.weights': None,
        'model.backbone.num_layers': 3,
        'model.data_preprocessor.size': f'({SIDE},{SIDE})',
        'default_hooks.logger.interval': 1,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'randomness.seed': 0,
    }
    evaluated = not name.startswith('label-free')
    crop = 3 if 'stuff27' in name else 2 if evaluated else 1
    if evaluated:
        options['train_cfg.val_interval'] = options['train_cfg.max_epochs']
    for split in SPLITS if evaluated else SPLITS[:1]:
        options[f'{split}_dataloader.dataset.pipeline.{crop}.size'] = SIDE
        if split != 'train':
            options[f'{split}_dataloader.num_workers'] = 0
            options[f'{split}_dataloader.persistent_workers'] = False
    return [f'{key}={value}' for key, value in options.items()]


@pytest.mark.parametrize('name', CASES)
def test_twenty_iterations_and_evaluation(name, tmp_path):
    prepare, metric = CASES[name]
    options = options_for(name, prepare, tmp_path / 'data')
    config, work = ROOT / 'configs' / 'probes' / f'{name}.py', tmp_path / 'work'
    code = run_tool('train', [config, '--work-dir', work, '--cfg-options', *options], tmp_path / 'log')
    log = (tmp_path / 'log').read_text()
    assert code == 0, log[-3000:]
    losses = [float(loss) for loss in re.findall(r'Epoch\(train\).*? loss: (\S+)', log)]
    assert len(losses) == 20 and all(map(math.isfinite, losses))
    if metric is not None:
        (scalars,) = work.glob('*/vis_data/scalars.json')
        found = [json.loads(line).get(metric) for line in scalars.read_text().splitlines()]
        assert [math.isfinite(value) for value in found if value is not None] == [True]

# SPDX-License-Identifier: Apache-2.0
"""Our COCO config on real COCO images: trained by MMDetection's own tool and by ours."""

import os
import re
from pathlib import Path

import mmdet
import pytest

from tests.runtime.helpers import COCO_CONFIG, run_tool

DATA = os.environ.get('CARAFE_REAL_DATA')
MMDET_TRAIN = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'


@pytest.mark.skipif(DATA is None, reason='CARAFE_REAL_DATA is not set')
@pytest.mark.parametrize('tool', ['train', str(MMDET_TRAIN)], ids=['ours', 'mmdet'])
def test_one_epoch_and_evaluation(tmp_path, tool):
    train, val = f'{DATA}/coco_train2017_50/', f'{DATA}/coco_val2017_100/'
    options = {
        'model.backbone.init_cfg': None,
        'train_dataloader.dataset.data_root': train,
        'val_dataloader.dataset.data_root': val,
        'val_evaluator.ann_file': f'{val}annotations/instances_val2017.json',
        'train_dataloader.dataset.pipeline.2.scale': '(256,160)',
        'val_dataloader.dataset.pipeline.1.scale': '(256,160)',
        'train_cfg.max_epochs': 1,
        # Below: what makes it a matter of seconds.
        'train_dataloader.dataset.indices': 6,
        'val_dataloader.dataset.indices': 4,
        'model.backbone.depth': 18,
        'model.neck.in_channels': '[64,128,256,512]',
        'model.train_cfg.rcnn.sampler.num': 16,
        'model.train_cfg.rpn_proposal.max_per_img': 100,
        'model.test_cfg.rcnn.score_thr': 0.0,
        'model.test_cfg.rcnn.max_per_img': 5,
        'default_hooks.logger.interval': 1,
    }
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False}
    argv = [COCO_CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options']
    argv += [f'{key}={value}' for key, value in options.items()]
    code = run_tool(tool, argv, tmp_path / 'log')
    log = (tmp_path / 'log').read_text()
    assert code == 0, log
    losses = re.findall(r'Epoch\(train\).* loss: (\S+)', log)
    assert len(losses) == 3
    assert all(re.fullmatch(r'\d+\.\d+', loss) for loss in losses)
    assert re.search(r'coco/segm_mAP: \d\.\d+', log)

# SPDX-License-Identifier: Apache-2.0
"""One option puts any upsampler into the quick-start model: 20 iterations and an evaluation each."""

import re

import pytest

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.shapes import make_shapes
from tests.runtime.helpers import ROOT, run_tool

CONFIG = ROOT / 'configs' / 'quickstart' / 'mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shapes')
    make_shapes(str(folder), 40, 8)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', list(UPSAMPLERS))
def test_trains_and_evaluates(name, data, tmp_path):
    options = [
        f'model.neck.upsample_cfg.type={name}',
        f'train_dataloader.dataset.data_root={data}/',
        f'val_dataloader.dataset.data_root={data}/',
        f'test_dataloader.dataset.data_root={data}/',
        f'val_evaluator.ann_file={data}/annotations/instances_val.json',
        f'test_evaluator.ann_file={data}/annotations/instances_val.json',
        'train_cfg.max_iters=20',
        'train_cfg.val_interval=20',
        'default_hooks.checkpoint.interval=20',
        'default_hooks.logger.interval=5',
        'model.test_cfg.rcnn.score_thr=0.0',  # 20 iterations teach little, and no detection is no AP
    ]
    log = tmp_path / 'log'
    code = run_tool('train', [CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options', *options], log)
    text = log.read_text()
    assert code == 0, text
    losses = [float(loss) for loss in re.findall(r'Iter\(train\) .* loss: ([\d.]+)', text)]
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert re.search(r'coco/segm_mAP: 0\.\d', text)
    weights = read_checkpoint(tmp_path / 'work' / 'iter_20.pth')['state_dict']
    learns = any(p.requires_grad for p in UPSAMPLERS.get(name)(64).parameters())
    assert any(key.startswith('neck.upsamplers.0.') for key in weights) == learns

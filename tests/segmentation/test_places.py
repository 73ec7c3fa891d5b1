# SPDX-License-Identifier: Apache-2.0
"""Each upsampler, named on the command line, trains ten iterations in each of UperNet's places."""

import re

import pytest

from carafe_plugin.upsamplers import UPSAMPLERS
from carafe_tools.shapes import make_shapes
from tests.runtime.helpers import ROOT, run_tool

CONFIG = ROOT / 'configs' / 'quickstart' / 'upernet_r18_stock_shapes.py'
SMALL = {
    'model.backbone.base_channels': 8,
    'model.backbone.stem_channels': 8,
    'model.decode_head.in_channels': '[8,16,32,64]',
    'model.decode_head.channels': 32,
    'model.auxiliary_head.in_channels': 32,
    'model.auxiliary_head.channels': 8,
    'model.decode_head.type': 'UpsampleUPerHead',
    'train_dataloader.batch_size': 2,
    'train_cfg.max_iters': 10,
    'train_cfg.val_interval': 20,
    'default_hooks.logger.interval': 5,
}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(folder, 2, 2)
    return folder / 'ade'


@pytest.mark.slow
@pytest.mark.parametrize('name', list(UPSAMPLERS))
@pytest.mark.parametrize('place', ['ppm', 'fpn', 'fusion'])
def test_ten_iterations(data, tmp_path, place, name):
    options = SMALL | {f'{split}_dataloader.dataset.data_root': data for split in ('train', 'val')}
    options[f'model.decode_head.upsample_cfg.{place}.type'] = name
    argv = [CONFIG, '--work-dir', tmp_path / 'work', '--cfg-options']
    code = run_tool('train', [*argv, *(f'{k}={v}' for k, v in options.items())], tmp_path / 'log')
    log = (tmp_path / 'log').read_text()
    assert code == 0, log[-3000:]
    losses = re.findall(r'Iter\(train\).*? loss: (\d+\.\d+)', log)
    assert len(losses) >= 2
    assert (tmp_path / 'work' / 'iter_10.pth').is_file()

# SPDX-License-Identifier: Apache-2.0
"""One option puts any upsampler into both networks: 10 iterations and an evaluation each."""

import math
import re

import pytest

from carafe_plugin.runtime.checkpoint import read_checkpoint
from carafe_plugin.upsamplers import UPSAMPLERS
from tests.runtime.helpers import ROOT, run_tool

from .pictures import write_pictures

CONFIGS = {name: f'inpaint_{name}-carafe_pictures.py' for name in ('global-local', 'partial-conv')}


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp('pictures'), count=12, height=70, width=90)


@pytest.mark.slow
@pytest.mark.parametrize('upsampler', list(UPSAMPLERS))
@pytest.mark.parametrize('network', CONFIGS)
def test_trains_and_evaluates(network, upsampler, data, tmp_path):
    options = [
        f'model.generator.upsample_cfg.type={upsampler}',
        *(f'{split}_dataloader.dataset.data_root={data}' for split in ('train', 'val')),
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=10',
        'train_cfg.val_interval=10',
        'default_hooks.checkpoint.interval=10',
        'default_hooks.logger.interval=1',
    ]
    config, log = ROOT / 'configs' / 'quickstart' / CONFIGS[network], tmp_path / 'log'
    code = run_tool('train', [config, '--work-dir', tmp_path / 'work', '--cfg-options', *options], log)
    text = log.read_text()
    if network == 'global-local' and UPSAMPLERS.get(upsampler).needs_guide:
        assert code == 1 and not (tmp_path / 'work').exists()
        assert re.search(rf"^error: .*upsampler '{upsampler}' needs a guide", text, re.MULTILINE)
        return
    assert code == 0, text
    losses = [float(loss) for loss in re.findall(r'Iter\(train\) .* loss: (\S+)', text)]
    assert len(losses) == 10 and all(map(math.isfinite, losses))
    assert re.search(r'Iter\(val\) .* PSNR: \d+\.\d', text)
    weights = read_checkpoint(tmp_path / 'work' / 'iter_10.pth')['state_dict']
    learns = any(p.requires_grad for p in UPSAMPLERS.get(upsampler)(64).parameters())
    assert any(key.startswith('generator.upsamplers.0.') for key in weights) == learns

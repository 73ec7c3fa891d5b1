# SPDX-License-Identifier: Apache-2.0
"""Our configs on real images: fifty iterations, an evaluation, a test with all options."""

import json
import math
import re
from pathlib import Path

import mmseg
import pytest
from PIL import Image

from tests.runtime.helpers import ROOT, run_tool
from tests.segmentation import real

CONFIGS = ROOT / 'configs'
MMSEG_TRAIN = str(Path(mmseg.__file__).parent / '.mim' / 'tools' / 'train.py')
ADE = 'ade20k/upernet_r50_carafe_20e_ade20k-450'
CASES = {
    'ade20k': (ADE, real.ade20k, 'train'),
    'ade20k by mmseg': (ADE, real.ade20k, MMSEG_TRAIN),
    'voc': ('voc/upernet_r50_carafe_4xb4-40k_voc12aug-512x512', real.voc, 'train'),
    'coco_stuff': (
        'coco_stuff/upernet_r50_carafe_4xb4-80k_coco-stuff164k-512x512',
        real.coco_stuff171,
        'train',
    ),
    'coco_stuff27': (
        'coco_stuff/upernet_r50_carafe_4xb4-80k_coco-stuff27-512x512',
        real.coco_stuff27,
        'train',
    ),
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(real.DATA is None, reason='CARAFE_REAL_DATA is not set'),
]


def words(options):
    return [f'{key}={value}' for key, value in options.items()]


@pytest.mark.parametrize('case', CASES)
def test_fifty_iterations_and_evaluation(case, tmp_path):
    name, prepare, tool = CASES[case]
    config, work = CONFIGS / f'{name}.py', tmp_path / 'work'
    options = words(real.SMALL | prepare(tmp_path / 'data'))
    code = run_tool(tool, [config, '--work-dir', work, '--cfg-options', *options], tmp_path / 'log')
    log = (tmp_path / 'log').read_text()
    assert code == 0, log[-3000:]
    losses = [float(loss) for loss in re.findall(r'Iter\(train\).*? loss: (\S+)', log)]
    assert len(losses) >= 5 and all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert math.isfinite(float(re.search(r'mIoU: (\S+)', log)[1]))
    if case != 'ade20k':
        return
    # The sliding window, flips and scales, pictures: the paper's config on what it has not seen.
    more = {
        'test_dataloader.dataset.indices': '[20,21]',
        'model.test_cfg.mode': 'slide',
        'model.test_cfg.crop_size': '(96,96)',
        'model.test_cfg.stride': '(64,64)',
    }
    more |= {f'tta_pipeline.1.transforms.0.{i}.scale': 80 + 10 * i for i in range(5)}
    options += words(more)
    argv = [config, work / 'iter_50.pth', '--work-dir', tmp_path / 'test', '--tta']
    argv += ['--show-dir', tmp_path / 'drawn', '--cfg-options', *options]
    code = run_tool('test', argv, tmp_path / 'test.log')
    log = (tmp_path / 'test.log').read_text()
    assert code == 0, log[-3000:]
    (result,) = (tmp_path / 'test').glob('*/*.json')
    assert math.isfinite(json.loads(result.read_text())['mIoU'])
    pictures = sorted((tmp_path / 'drawn').glob('*.png'))
    assert len(pictures) == 2
    assert Image.open(pictures[0]).width > 3 * 200  # image, truth and prediction side by side

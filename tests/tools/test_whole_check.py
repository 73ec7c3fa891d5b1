# SPDX-License-Identifier: Apache-2.0
"""Parts of the export of whole models that need no model: geometry of the images, comparison of results."""

import re

import numpy as np
import pytest
from mmengine.config import Config

from carafe_plugin.runtime.errors import UserError
from carafe_tools.whole import read_geometry
from carafe_tools.whole_check import match


@pytest.mark.parametrize(
    'given, expected',
    [
        (dict(scale=64), dict(scale=(64, 64))),
        (dict(scale=[64, 48], scale_factor=None), dict(scale=(64, 48))),
        (dict(scale_factor=0.5, keep_ratio=True), dict(scale_factor=0.5, keep_ratio=True)),
        (dict(scale_factor=(0.5, 2.0)), r'scale_factor=\(0.5, 2.0\) cannot leave Python, expected a number'),
        (dict(keep_ratio=True), 'scale_factor=None cannot leave Python'),
    ],
)
def test_resize(given, expected):
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', **given)]
    dataset = dict(type='CocoDataset', pipeline=pipeline)
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            read_geometry(cfg)
    else:
        assert read_geometry(cfg) == [dict(type='Resize', **expected)]


RESULT = dict(
    boxes=np.array([[10.0, 10, 30, 30], [50, 50, 60, 60]], np.float32),
    scores=np.array([0.9, 0.0505], np.float32),
    labels=np.array([1, 0]),
    masks=np.stack([np.pad(np.ones((20, 20), bool), ((10, 40), (10, 40)))] * 2),
)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(boxes=RESULT['boxes'] + 0.4, scores=RESULT['scores'] + 0.001), None),
        (dict(boxes=RESULT['boxes'] + 0.6), 'PyTorch alone finds label 1 at 10.0, 10.0, 30.0, 30.0'),
        (dict(labels=np.array([0, 0])), 'PyTorch alone finds label 1'),
        (dict(scores=RESULT['scores'] + 0.02), 'scores differ by 0.02'),
        (dict(masks=np.roll(RESULT['masks'], 1, axis=2)), 'least IoU of masks 0.905'),
        ({name: value[:1] for name, value in RESULT.items()}, None),  # 0.0505 may be an edge's doing
        ({name: value[1:] for name, value in RESULT.items()}, 'PyTorch alone finds label 1'),
        (dict(boxes=RESULT['boxes'] * np.nan), 'boxes of the file are not all finite'),
        (dict(scores=np.array([np.nan, 0.0505])), 'scores of the file are not all finite'),
    ],
)
def test_differences_are_found(change, message):
    if message is None:
        assert match(RESULT | change, RESULT)[0] == 1
    else:
        with pytest.raises(UserError, match=re.escape(message)):
            match(RESULT | change, RESULT)

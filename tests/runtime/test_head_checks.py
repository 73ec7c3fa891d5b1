# SPDX-License-Identifier: Apache-2.0
"""Heads with fewer outputs than there are classes are refused, with more are told of."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from carafe_plugin.runtime.data_checks import check_model
from carafe_plugin.runtime.errors import UserError
from tests.runtime.helpers import ROOT

MASK_RCNN = ROOT / 'configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py'
UPERNET = ROOT / 'configs/quickstart/upernet_r18_stock_shapes.py'
HEADS = 'model.roi_head'
CASCADE = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'


def check(config, splits=('train', 'val'), **changes):
    if 'mmdet::' in str(config) or 'mmseg::' in str(config):
        cfg = Config.fromstring(f"_base_ = '{config}'", '.py')
    else:
        cfg = Config.fromfile(config)
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    cfg.model.backbone.init_cfg = None
    cfg.model.pop('pretrained', None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        check_model(MODELS.build(cfg.model), cfg, splits)


def test_heads_that_fit_pass_without_a_word(capfd):
    check(MASK_RCNN)
    check(UPERNET)
    check(MASK_RCNN, model__roi_head__mask_head__num_classes=1)  # class_agnostic: one output in any case
    assert 'note' not in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    'config',
    [
        ROOT / 'configs/coco/panoptic-fpn_r50_fpn-carafe_1x_coco.py',  # 80 things, 53 of stuff
        ROOT / 'configs/coco/retinanet_r50_fpn-carafe_1x_coco.py',
        'mmdet::rpn/rpn_r50_fpn_1x_coco.py',  # tells no classes apart
        'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
        'mmdet::lvis/mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1.py',
        'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',  # one head draws boundaries
        CASCADE,
    ],
)
def test_other_kinds_of_heads_pass_without_a_word(capfd, config):
    check(config)
    assert 'note' not in capfd.readouterr().err


@pytest.mark.parametrize(
    ('config', 'changes', 'message'),
    [
        (
            MASK_RCNN,
            dict(model__roi_head__bbox_head__num_classes=4),
            'roi_head.bbox_head has num_classes=4, .* 6',
        ),
        (
            MASK_RCNN,
            dict(model__roi_head__mask_head=dict(num_classes=4, class_agnostic=False)),
            'roi_head.mask_head has num_classes=4, train_dataloader.dataset 6 classes: star, gear, ring',
        ),
        (CASCADE, {f'{HEADS}.bbox_head.1.num_classes': 20}, 'roi_head.bbox_head.1 has num_classes=20, .* 80'),
        (
            'mmdet::pascal_voc/retinanet_r50_fpn_1x_voc0712.py',
            dict(model__bbox_head__num_classes=19),
            r'bbox_head has num_classes=19, train_dataloader.dataset.*datasets\[0\] 20 classes: aeroplane',
        ),
        (UPERNET, dict(model__decode_head__num_classes=1), 'decode_head has num_classes=1, .* 2 classes'),
        (
            UPERNET,
            dict(model__auxiliary_head__num_classes=1),
            'auxiliary_head has num_classes=1, .* 2 classes',
        ),
        (
            'mmseg::upernet/upernet_r50_4xb4-20k_voc12aug-512x512.py',
            dict(model__decode_head__num_classes=20),
            'decode_head has num_classes=20, .* 21 classes: background',
        ),
        (
            MASK_RCNN,
            {'train_dataloader.dataset.pipeline.1.with_mask': False},
            'the model has a mask head, and LoadAnnotations loads no masks in train_dataloader.dataset',
        ),
    ],
)
def test_too_few_classes(config, changes, message):
    with pytest.raises(UserError, match=message):
        check(config, **changes)


def test_too_many_classes_are_told_once(capfd):
    check(MASK_RCNN, model__roi_head__bbox_head__num_classes=9)
    check(UPERNET, model__decode_head__num_classes=7, model__auxiliary_head__num_classes=7)
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith('note')]
    assert notes == [
        'note: model.roi_head.bbox_head has num_classes=9, train_dataloader.dataset 6 classes: 3 are never '
        'trained, and metrics may fail on them',
        *(
            f'note: model.{head} has num_classes=7, train_dataloader.dataset 2 classes: 5 are never trained, '
            'and metrics may fail on them'
            for head in ('decode_head', 'auxiliary_head')
        ),
    ]


def test_heads_that_differ():
    """One of them was forgotten, with more outputs than classes."""
    message = 'decode_head has num_classes=7, .* 2 classes, and model.auxiliary_head num_classes=2: '
    with pytest.raises(UserError, match=message):
        check(UPERNET, model__decode_head__num_classes=7)

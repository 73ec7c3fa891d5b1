# SPDX-License-Identifier: Apache-2.0
"""The COCO configs differ from mmdet's only where they say so, and build what they name."""

from pathlib import Path

import pytest
import torch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

COCO = Path(__file__).parents[1] / 'configs' / 'coco'
BASES = {
    'faster-rcnn_r50_fpn-carafe_1x_coco': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask-rcnn_r50_fpn-carafe_1x_coco': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mask-rcnn_r50_fpn_head-carafe_1x_coco': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'faster-rcnn_r50_fpncarafe-zoo_1x_coco': 'carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py',
    'mask-rcnn_r50_fpncarafe-zoo_1x_coco': 'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py',
}
ALLOWED = {
    'custom_imports',
    'model.neck.type',
    'model.neck.upsample_cfg.type',
    'model.roi_head.mask_head.type',
    'model.roi_head.mask_head.upsample_cfg.type',
}


def load(path):
    text = f"_base_ = 'mmdet::{path}'"
    return Config.fromstring(text, '.py')


def leaves(node, prefix=''):
    """Flat view of a config: dotted path to value."""
    if isinstance(node, dict):
        return {k: v for key, value in node.items() for k, v in leaves(value, f'{prefix}{key}.').items()}
    if isinstance(node, (list, tuple)) and any(isinstance(item, dict) for item in node):
        return {k: v for i, item in enumerate(node) for k, v in leaves(item, f'{prefix}{i}.').items()}
    return {prefix[:-1]: node}


def test_every_config_is_covered():
    assert {path.stem for path in COCO.glob('*.py')} == set(BASES)


@pytest.mark.parametrize('name', BASES)
def test_differs_from_mmdet_only_in_the_upsamplers(name):
    ours, theirs = (
        leaves(Config.fromfile(COCO / f'{name}.py')._cfg_dict),
        leaves(load(BASES[name])._cfg_dict),
    )
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key, key) != theirs.get(key, key)}
    assert {key if not key.startswith('custom_imports') else 'custom_imports' for key in changed} <= ALLOWED
    in_neck, in_head = (
        'model.neck.upsample_cfg.type' in changed,
        'model.roi_head.mask_head.upsample_cfg.type' in changed,
    )
    assert (in_neck, in_head) == ('_fpn-carafe_' in name, '_head-carafe_' in name)


def state(model_cfg):
    init_default_scope('mmdet')
    model_cfg.backbone.init_cfg = None
    return {key: value.shape for key, value in MODELS.build(model_cfg).state_dict().items()}


@pytest.mark.parametrize('name', [name for name in BASES if name.endswith('zoo_1x_coco')])
def test_zoo_configs_have_the_released_keys_and_shapes(name):
    ours = state(Config.fromfile(COCO / f'{name}.py').model)
    assert ours == state(load(BASES[name]).model)
    # FPN_CARAFE: five laterals, four upsamplers of 74,148 parameters each.
    sizes = [shape.numel() for key, shape in ours.items() if key.startswith('neck.upsample_modules.')]
    assert sum(sizes) == 4 * 74_148


@pytest.mark.parametrize('name', [name for name in BASES if 'zoo' not in name])
def test_plugin_configs_add_only_upsamplers_to_mmdet(name):
    ours, theirs = state(Config.fromfile(COCO / f'{name}.py').model), state(load(BASES[name]).model)
    added = {key: ours[key] for key in ours.keys() - theirs.keys()}
    assert {key: shape for key, shape in ours.items() if key not in added}.items() <= theirs.items()
    places = 3 * ('_fpn-carafe_' in name) + ('_head-carafe_' in name)
    assert sum(shape.numel() for shape in added.values()) == places * 74_148
    assert all(key.startswith(('neck.upsamplers.', 'roi_head.mask_head.upsample.')) for key in added)


@pytest.mark.parametrize(
    'name', ['mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco', 'mask-rcnn_r50_fpncarafe-zoo_1x_coco']
)
def test_init_detector_runs_on_a_cpu(name):
    """mmdet's own API builds and runs the model; a stock FPN_CARAFE has no CPU kernel."""
    options = {'model.backbone.init_cfg': None, 'model.backbone.depth': 18}
    options['model.neck.in_channels'] = [64, 128, 256, 512]
    model = init_detector(COCO / f'{name}.py', device='cpu', cfg_options=options, palette='random')
    with torch.no_grad():
        outs = model.neck(model.backbone(torch.rand(1, 3, 64, 96)))
    assert [tuple(out.shape[-2:]) for out in outs] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]

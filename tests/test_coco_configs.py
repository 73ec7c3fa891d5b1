# SPDX-License-Identifier: Apache-2.0
"""The COCO configs differ from mmdet's only where they say so, and build what they name."""

import sys
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[1]
COCO = ROOT / 'configs' / 'coco'
FASTER, MASK = 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
BASES = {
    'faster-rcnn_r50_fpn-carafe_1x_coco': FASTER,
    'faster-rcnn_r50_fpncarafe-carafe_1x_coco': FASTER,
    'faster-rcnn_r101_fpncarafe-carafe_1x_coco': FASTER.replace('r50', 'r101'),
    'mask-rcnn_r50_fpn-carafe_1x_coco': MASK,
    'mask-rcnn_r50_fpn_head-carafe_1x_coco': MASK,
    'mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco': MASK,
    'mask-rcnn_r50_fpncarafe-carafe_1x_coco': MASK,
    'mask-rcnn_r101_fpncarafe-carafe_1x_coco': MASK.replace('r50', 'r101'),
    'panoptic-fpn_r50_fpn-carafe_1x_coco': 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'retinanet_r50_fpn-carafe_1x_coco': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'yolox_s_pafpn-carafe_8xb8-300e_coco': 'yolox/yolox_s_8xb8-300e_coco.py',
    'rtmdet_s_pafpn-carafe_8xb32-300e_coco': 'rtmdet/rtmdet_s_8xb32-300e_coco.py',
    'faster-rcnn_r50_fpncarafe-zoo_1x_coco': 'carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py',
    'mask-rcnn_r50_fpncarafe-zoo_1x_coco': 'carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py',
}
#: Ablation: parameters of one of its three upsamplers, as the paper's tables 8 to 10 count them.
ABLATIONS = {
    'cm16': 18_612,
    'cm32': 37_124,
    'cm128': 148_196,
    'cm256': 296_292,
    'cm-none': 230_500,
    'kenc1-kup3': 18_788,
    'kenc1-kup5': 22_948,
    'kenc3-kup3': 37_220,
    'kenc3-kup7': 129_540,
    'kenc5-kup5': 176_548,
    'kenc5-kup7': 330_244,
    'kenc7-kup7': 631_300,
    'sigmoid': 74_148,
    'sigmoid-norm': 74_148,
}
BASES |= {f'ablations/faster-rcnn_r50_fpn-carafe-{name}_1x_coco': FASTER for name in ABLATIONS}
#: Parameters of upsamplers in a detector: 74,148 at 256 channels, fewer in the narrow YOLO necks.
ADDED = {
    'faster-rcnn_r50_fpn-carafe_1x_coco': 3 * 74_148,
    'mask-rcnn_r50_fpn-carafe_1x_coco': 3 * 74_148,
    'mask-rcnn_r50_fpn_head-carafe_1x_coco': 74_148,
    'mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco': 4 * 74_148,
    'panoptic-fpn_r50_fpn-carafe_1x_coco': 3 * 74_148,
    'retinanet_r50_fpn-carafe_1x_coco': 2 * 74_148,
    'yolox_s_pafpn-carafe_8xb8-300e_coco': 2 * 57_764 + (128 + 256) * 64,
    'rtmdet_s_pafpn-carafe_8xb32-300e_coco': 2 * 57_764 + (128 + 256) * 64,
}
ALLOWED = {
    'custom_imports',
    'default_hooks.check_data.type',
    'default_hooks.finite_loss.type',
    'model.neck.type',
    'model.neck.upsample_cfg',
    'model.roi_head.mask_head.type',
    'model.roi_head.mask_head.upsample_cfg',
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


def shorten(key):
    """What a dotted path is about: all of ``upsample_cfg`` is one thing, and so are the imports."""
    head, field, _ = key.partition('upsample_cfg')
    return 'custom_imports' if key.startswith('custom_imports') else head + field


def test_every_config_is_covered():
    assert {str(path.relative_to(COCO))[:-3] for path in COCO.rglob('*.py')} == set(BASES)


def test_index_readme_and_header_name_every_config():
    metafile = yaml.safe_load((COCO / 'metafile.yml').read_text())
    listed = {model['Name']: model['Config'] for model in metafile['Models']}
    assert listed == {Path(name).name: f'configs/coco/{name}.py' for name in BASES}
    readme = (ROOT / 'configs' / 'README.md').read_text()
    for name in BASES:
        assert f'(coco/{name}.py)' in readme
        assert f' configs/coco/{name}.py ' in (COCO / f'{name}.py').read_text()


@pytest.mark.parametrize('name', BASES)
def test_differs_from_mmdet_only_in_the_upsamplers(name):
    ours, theirs = (
        leaves(Config.fromfile(COCO / f'{name}.py')._cfg_dict),
        leaves(load(BASES[name])._cfg_dict),
    )
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key, key) != theirs.get(key, key)}
    allowed = ALLOWED | (
        {'model.data_preprocessor.pad_size_divisor'} if '_fpncarafe-carafe' in name else set()
    )
    assert {shorten(key) for key in changed} <= allowed
    in_neck = any(key.startswith('model.neck.upsample_cfg') for key in changed)
    in_head = any(key.startswith('model.roi_head.mask_head.upsample_cfg') for key in changed)
    assert (in_neck, in_head) == ('fpn-carafe' in name or 'fpncarafe-carafe' in name, '_head-carafe_' in name)
    if 'fpncarafe' in name:  # six halvings down to P6
        assert ours['model.data_preprocessor.pad_size_divisor'] == 64


def state(model_cfg):
    init_default_scope('mmdet')
    model_cfg.backbone.init_cfg = None
    with torch.device('meta'):  # no time for random numbers
        return {key: value.shape for key, value in MODELS.build(model_cfg).state_dict().items()}


@pytest.mark.parametrize('name', [name for name in BASES if name.endswith('zoo_1x_coco')])
def test_zoo_configs_have_the_released_keys_and_shapes(name):
    ours = state(Config.fromfile(COCO / f'{name}.py').model)
    assert ours == state(load(BASES[name]).model)
    # FPN_CARAFE: five laterals, four upsamplers of 74,148 parameters each.
    sizes = [shape.numel() for key, shape in ours.items() if key.startswith('neck.upsample_modules.')]
    assert sum(sizes) == 4 * 74_148


@pytest.mark.parametrize('name', ADDED)
def test_plugin_configs_add_only_upsamplers_to_mmdet(name):
    ours, theirs = state(Config.fromfile(COCO / f'{name}.py').model), state(load(BASES[name]).model)
    added = {key: ours[key] for key in ours.keys() - theirs.keys()}
    assert {key: shape for key, shape in ours.items() if key not in added}.items() <= theirs.items()
    assert sum(shape.numel() for shape in added.values()) == ADDED[name]
    assert all(key.startswith(('neck.upsamplers.', 'roi_head.mask_head.upsample.')) for key in added)


@pytest.mark.parametrize('name', [name for name in BASES if '_fpncarafe-carafe' in name])
def test_four_stage_configs_have_the_keys_of_the_zoo(name):
    kind = name.split('_')[0]
    zoo = load(BASES[f'{kind}_r50_fpncarafe-zoo_1x_coco']).model
    zoo.backbone.depth = 101 if 'r101' in name else 50
    renamed = {key.replace('upsample_modules', 'upsamplers'): shape for key, shape in state(zoo).items()}
    head = 'roi_head.mask_head.upsample.'  # the zoo's Mask R-CNN has CARAFE there too
    ours = state(Config.fromfile(COCO / f'{name}.py').model)
    assert {k: v for k, v in ours.items() if not k.startswith(head)} == {
        k: v for k, v in renamed.items() if not k.startswith(head)
    }


@pytest.mark.parametrize('name', ABLATIONS)
def test_ablations_have_the_parameters_of_the_papers_tables(name):
    cfg = Config.fromfile(COCO / f'ablations/faster-rcnn_r50_fpn-carafe-{name}_1x_coco.py').model.neck
    neck = MODELS.build(cfg)
    assert [sum(p.numel() for p in up.parameters()) for up in neck.upsamplers] == [ABLATIONS[name]] * 3


@pytest.mark.parametrize(
    'name', ['mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco', 'mask-rcnn_r50_fpncarafe-zoo_1x_coco']
)
def test_init_detector_runs_on_a_cpu(name, monkeypatch):
    """mmdet's own API builds and runs the model; a stock FPN_CARAFE has no CPU kernel."""
    # Another test may have taken the patch back: let the config import it anew.
    monkeypatch.delitem(sys.modules, 'carafe_plugin.mmcv_patch', raising=False)
    options = {'model.backbone.init_cfg': None, 'model.backbone.depth': 18}
    options['model.neck.in_channels'] = [64, 128, 256, 512]
    model = init_detector(COCO / f'{name}.py', device='cpu', cfg_options=options, palette='random')
    with torch.no_grad():
        outs = model.neck(model.backbone(torch.rand(1, 3, 64, 96)))
    assert [tuple(out.shape[-2:]) for out in outs] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]

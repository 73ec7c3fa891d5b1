# SPDX-License-Identifier: Apache-2.0
"""The segmentation configs build, differ from mmseg's only where they say so, carry the published sizes."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmseg.datasets import COCOStuffDataset

import carafe_plugin.segmentation  # noqa: F401
from carafe_plugin.upsamplers import Upsampler
from tests.test_coco_configs import leaves

CONFIGS = Path(__file__).parents[2] / 'configs'
FOLDERS = ('ade20k', 'voc', 'coco_stuff', 'cityscapes')
FILES = sorted(path for folder in FOLDERS for path in (CONFIGS / folder).glob('*.py'))
QUICK = ('upernet_r50_carafe_20e_ade20k-450', 'segformer_mit-b1_carafe_8xb2-160k_ade20k-512x512')
# Parameters of each CARAFE place at UperNet's 512 channels.
PPM, FPN, FUSION = 362_128, 271_596, 369_900
ADDED = {
    'stock': 0,
    'carafe-ppm': PPM,
    'carafe-fpn': FPN,
    'carafe-fusion': FUSION,
    'carafe-ppm-fpn': PPM + FPN,
    'carafe-ppm-fusion': PPM + FUSION,
    'carafe-fpn-fusion': FPN + FUSION,
    'carafe': PPM + FPN + FUSION,
}
# mmseg's configs; what may differ are the fields of the upsampler and what the configs bring along.
BROUGHT = ('custom_imports', 'default_hooks.check_data.', 'default_hooks.finite_loss.')
RECIPES = {
    'upernet_r50_carafe_4xb4-80k_ade20k-512x512': 'upernet/upernet_r50_4xb4-80k_ade20k-512x512',
    'upernet_r50_carafe-fpn_4xb4-80k_ade20k-512x512': 'upernet/upernet_r50_4xb4-80k_ade20k-512x512',
    'upernet_r101_carafe_4xb4-80k_ade20k-512x512': 'upernet/upernet_r101_4xb4-80k_ade20k-512x512',
    'segformer_mit-b1_bilinear_8xb2-160k_ade20k-512x512': (
        'segformer/segformer_mit-b1_8xb2-160k_ade20k-512x512'
    ),
    'segformer_mit-b1_carafe_8xb2-160k_ade20k-512x512': 'segformer/segformer_mit-b1_8xb2-160k_ade20k-512x512',
    'fpn_r50_carafe_4xb4-160k_ade20k-512x512': 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512',
    'mask2former_swin-b_carafe_8xb2-160k_ade20k-640x640': (
        'mask2former/mask2former_swin-b-in22k-384x384-pre_8xb2-160k_ade20k-640x640'
    ),
    'upernet_r50_carafe_4xb4-40k_voc12aug-512x512': 'upernet/upernet_r50_4xb4-40k_voc12aug-512x512',
    'upernet_r50_carafe_4xb2-80k_cityscapes-512x1024': 'upernet/upernet_r50_4xb2-80k_cityscapes-512x1024',
}


def build(cfg):
    """The model without its pretrained weights; the convolutional ones without memory of their own."""
    cfg.model.pop('pretrained', None)
    cfg.model.backbone.init_cfg = None
    device = 'meta' if 'ResNet' in cfg.model.backbone.type else 'cpu'  # transformers read values back
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device(device):
        return MODELS.build(cfg.model)


def upsampler_parameters(model):
    ups = [module for module in model.modules() if isinstance(module, Upsampler)]
    return sum(parameter.numel() for up in ups for parameter in up.parameters())


@pytest.mark.parametrize(
    'path', [pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow) for p in FILES]
)
def test_every_config_builds(path):
    cfg = Config.fromfile(path)
    model = build(cfg)
    # The data set, its pipelines and metrics exist by name; there are no files.
    with DefaultScope.overwrite_default_scope('mmseg'):
        for split in ('train', 'val', 'test'):
            dataset = cfg[f'{split}_dataloader'].dataset
            for inner in dataset.get('datasets', [dataset]):
                if inner.type != 'PascalVOCDataset':  # looks for its files even so
                    built = DATASETS.build(dict(inner, lazy_init=True))
                    assert len(built.metainfo['classes']) == cfg.model.decode_head.num_classes
        DATASETS.build(dict(type='BaseSegDataset', lazy_init=True, pipeline=cfg.tta_pipeline))
    if 'segformer' in path.stem:
        assert upsampler_parameters(model) == (6 * 74_148 if '_carafe_' in path.stem else 0)
    elif 'upernet' in path.stem:
        assert upsampler_parameters(model) == ADDED[path.stem.split('_')[2]]
    else:
        assert upsampler_parameters(model) > 0


def test_index_docs_and_header_name_every_config():
    index = yaml.safe_load((CONFIGS.parent / 'model-index.yml').read_text())['Import']
    models = [m for file in index for m in yaml.safe_load((CONFIGS.parent / file).read_text())['Models']]
    listed = {model['Name']: model['Config'] for model in models}
    docs = (CONFIGS.parent / 'docs' / 'segmentation.md').read_text()
    for path in FILES:
        name = path.relative_to(CONFIGS.parent)
        assert listed[path.stem] == str(name)
        assert f'`{path.parent.name}/{path.stem}`' in docs
        assert f' {name} ' in path.read_text()


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_are_mmsegs(name):
    (path,) = CONFIGS.glob(f'*/{name}.py')
    theirs = Config.fromstring(f"_base_ = 'mmseg::{RECIPES[name]}.py'", '.py')
    ours, theirs = leaves(Config.fromfile(path)._cfg_dict), leaves(theirs._cfg_dict)
    changed = {key for key in ours.keys() | theirs.keys() if ours.get(key, key) != theirs.get(key, key)}
    assert {key.split('.')[-1] for key in changed if not key.startswith(BROUGHT)} == {'type'}
    for key in changed:
        if not key.startswith(BROUGHT):
            assert 'upsample_cfg' in key or 'Upsample' in ours[key], key


def test_the_paper_recipe():
    cfg = Config.fromfile(CONFIGS / 'ade20k' / 'upernet_r50_carafe_20e_ade20k-450.py')
    (resize,) = (step for step in cfg.train_pipeline if 'Resize' in step.type)
    assert (resize.scales, resize.max_size) == ([300, 375, 450, 525, 600], 1200)
    assert not any('Crop' in step.type for step in cfg.train_pipeline)
    assert cfg.test_pipeline[1].scale == (1200, 450)
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.power, schedule.end) == ('PolyLR', 0.9, cfg.train_cfg.max_iters)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.decode_head.norm_cfg.type == 'SyncBN'


def test_every_row_of_the_table_is_there():
    names = {path.stem.split('_')[2] for path in (CONFIGS / 'ade20k').glob('upernet_r50_*_20e_*.py')}
    assert names == set(ADDED)


@pytest.mark.skipif('CARAFE_REAL_DATA' not in os.environ, reason='CARAFE_REAL_DATA is not set')
def test_coarse_coco_classes_are_the_supercategories():
    folder = Path(os.environ['CARAFE_REAL_DATA'], 'coco_val2017_100', 'annotations')
    cfg = Config.fromfile(CONFIGS / '_base_' / 'coco_stuff27.py')
    assert len(cfg.label_map) == 171 and len(cfg.classes) == 27
    coarse = dict(zip(COCOStuffDataset.METAINFO['classes'], cfg.label_map, strict=True))
    seen = {}
    for file, kind in (('instances', 'thing'), ('stuff', 'stuff')):
        for category in json.loads((folder / f'{file}_val2017.json').read_text())['categories']:
            if category['name'] != 'other':
                group = (
                    category['supercategory'].replace('-stuff', '').replace('raw-material', 'raw material')
                )
                name = f'{group} {kind}' if group in ('food', 'furniture') else group
                assert cfg.classes[coarse[category['name']]] == name
                seen[category['name']] = name
    assert len(seen) == 171


def test_coarse_cityscapes_classes():
    cfg = Config.fromfile(CONFIGS / '_base_' / 'cityscapes27.py')
    assert len(cfg.classes) == len(cfg.palette) == 27 and len(cfg.label_map) == 34
    # Of the label ids of the data set's own scripts: road 7, sky 23, caravan 29, bicycle 33; void below 7.
    for label, name in ((7, 'road'), (23, 'sky'), (29, 'caravan'), (33, 'bicycle')):
        assert cfg.classes[cfg.label_map[label]] == name
    assert set(cfg.label_map[:7]) == {255}

# SPDX-License-Identifier: Apache-2.0
"""The real samples laid out as the data sets' own folders, and the options that shrink a config to them."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

DATA = os.environ.get('CARAFE_REAL_DATA')
SPLITS = ('train', 'val', 'test')
SMALL = {
    'model.pretrained': None,
    'model.backbone.depth': 18,
    'model.decode_head.in_channels': '[64,128,256,512]',
    'model.decode_head.channels': 32,
    'model.auxiliary_head.in_channels': 256,
    'model.auxiliary_head.channels': 32,
    'train_dataloader.batch_size': 2,
    'default_hooks.logger.interval': 10,
    'default_hooks.checkpoint.interval': 50,
    'train_cfg.max_iters': 50,
    'train_cfg.val_interval': 50,
}
for split in SPLITS:
    SMALL |= {f'{split}_dataloader.num_workers': 0, f'{split}_dataloader.persistent_workers': False}
CROP = {'model.data_preprocessor.size': '(128,128)'}


def crop_options(dataset: str, resize: int, crop: int) -> dict:
    """A training pipeline of mmseg's recipes with 128 x 128 crops of small images."""
    return {
        f'{dataset}.pipeline.{resize}.scale': '(256,128)',
        f'{dataset}.pipeline.{crop}.crop_size': '(128,128)',
    }


def small_test(*resizes: int) -> dict:
    """Test pipelines with small images."""
    return {
        f'{split}_dataloader.dataset.pipeline.{index}.scale': '(256,128)'
        for split in ('val', 'test')
        for index in resizes
    }


def ade20k(folder: Path) -> dict:
    """Twenty pairs to train on and thirteen to evaluate, in the paper's pipeline at a third of its size."""
    dataset = dict(data_root=f'{DATA}/ade20k_val_33')
    dataset |= {'data_prefix.img_path': 'images', 'data_prefix.seg_map_path': 'annotations'}
    return {
        **{f'{split}_dataloader.dataset.{key}': dataset[key] for split in SPLITS for key in dataset},
        'train_dataloader.dataset.indices': 20,
        'val_dataloader.dataset.indices': str(list(range(20, 33))).replace(' ', ''),
        'train_dataloader.dataset.pipeline.2.scales': '[100,125,150,175,200]',
        'train_dataloader.dataset.pipeline.2.max_size': 400,
        **small_test(1),
    }


def voc(folder: Path) -> dict:
    """Four pairs, the same for training and evaluation."""
    source = Path(DATA, 'voc_seg_4')
    stems = sorted(path.stem for path in source.glob('*.png'))
    for name, suffix in (
        ('JPEGImages', '.jpg'),
        ('SegmentationClass', '.png'),
        ('SegmentationClassAug', '.png'),
    ):
        (folder / name).mkdir(parents=True)
        for stem in stems:
            (folder / name / f'{stem}{suffix}').symlink_to(source / f'{stem}{suffix}')
    lists = folder / 'ImageSets' / 'Segmentation'
    lists.mkdir(parents=True)
    for name in ('train', 'aug', 'val'):
        (lists / f'{name}.txt').write_text('\n'.join(stems) + '\n')
    parts = [f'train_dataloader.dataset.datasets.{i}' for i in (0, 1)]
    options = {f'{part}.data_root': folder for part in (*parts, 'val_dataloader.dataset')}
    for part in parts:
        options |= crop_options(part, 2, 3) | {f'{part}.pipeline.6.size': '(128,128)'}
    return options | CROP | small_test(1)


def coco_stuff(folder: Path) -> dict:
    """Label maps as mmseg's converter writes them, from COCO's own stuff and instance annotations."""
    source = Path(DATA, 'coco_val2017_100')
    contents = [
        json.loads((source / 'annotations' / f'{kind}_val2017.json').read_text())
        for kind in ('stuff', 'instances')
    ]
    things = {category['id']: i for i, category in enumerate(contents[1]['categories'])}
    labelled = {annotation['image_id'] for annotation in contents[0]['annotations']}
    images = {image['id']: image for image in contents[0]['images'] if image['id'] in labelled}
    maps = {i: np.full((image['height'], image['width']), 255, np.uint8) for i, image in images.items()}
    for content in contents:
        for annotation in content['annotations']:
            category, image = annotation['category_id'], annotation['image_id']
            label = category - 92 + 80 if category >= 92 else things[category]
            if category == 183 or image not in maps:  # what is no stuff
                continue
            rle = annotation['segmentation']
            if isinstance(rle, list):
                rle = mask_utils.merge(mask_utils.frPyObjects(rle, *maps[image].shape))
            elif isinstance(rle['counts'], list):
                rle = mask_utils.frPyObjects(rle, *maps[image].shape)
            maps[image][mask_utils.decode(rle) > 0] = label
    for split in ('train2017', 'val2017'):
        for name in ('images', 'annotations'):
            (folder / name / split).mkdir(parents=True)
    for index, (i, image) in enumerate(images.items()):
        split, stem = ('train2017', 'val2017')[index % 3 == 0], Path(image['file_name']).stem
        (folder / 'images' / split / f'{stem}.jpg').symlink_to(source / 'val2017' / image['file_name'])
        cv2.imwrite(str(folder / 'annotations' / split / f'{stem}_labelTrainIds.png'), maps[i])
    return {f'{split}_dataloader.dataset.data_root': folder for split in SPLITS}


def coco_stuff171(folder: Path) -> dict:
    """All 171 labels."""
    return coco_stuff(folder) | CROP | crop_options('train_dataloader.dataset', 2, 3) | small_test(1)


def coco_stuff27(folder: Path) -> dict:
    """The coarse ones; the table comes behind the label maps."""
    return coco_stuff(folder) | CROP | crop_options('train_dataloader.dataset', 3, 4) | small_test(1)

# SPDX-License-Identifier: Apache-2.0
"""Cityscapes in the 27 classes of the unsupervised-segmentation literature (IIC, PiCIE, STEGO).

Label maps are the data set's own ``*_gtFine_labelIds.png``: 0 to 6 are void and ignored, 7 to 33 are
the classes.
"""

_base_ = './coarse27.py'
classes = (
    *('road', 'sidewalk', 'parking', 'rail track', 'building', 'wall', 'fence', 'guard rail', 'bridge'),
    *('tunnel', 'pole', 'polegroup', 'traffic light', 'traffic sign', 'vegetation', 'terrain', 'sky'),
    *('person', 'rider', 'car', 'truck', 'bus', 'caravan', 'trailer', 'train', 'motorcycle', 'bicycle'),
)
palette = [
    *([128, 64, 128], [244, 35, 232], [250, 170, 160], [230, 150, 140], [70, 70, 70], [102, 102, 156]),
    *([190, 153, 153], [180, 165, 180], [150, 100, 100], [150, 120, 90], [153, 153, 153], [153, 153, 153]),
    *([250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60]),
    *([255, 0, 0], [0, 0, 142], [0, 0, 70], [0, 60, 100], [0, 0, 90], [0, 0, 110], [0, 80, 100]),
    *([0, 0, 230], [119, 11, 32]),
]
label_map = [255] * 7 + list(range(27))
values = dict(label_map=label_map, scale=(2048, 1024), crop_size=(512, 1024))
train_pipeline = [{key: values.get(key, step[key]) for key in step} for step in _base_.train_pipeline]
test_pipeline = [{key: values.get(key, step[key]) for key in step} for step in _base_.test_pipeline]
tta_transforms = [
    [{key: values.get(key, step[key]) for key in step} for step in steps] for steps in _base_.tta_transforms
]
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=tta_transforms)]
dataset = dict(
    data_root='data/cityscapes',
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelIds.png',
)
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        pipeline=train_pipeline,
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
        **dataset,
    ),
)
test_dataloader = val_dataloader

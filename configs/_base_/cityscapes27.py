# SPDX-License-Identifier: Apache-2.0
"""Cityscapes in the 27 classes of the unsupervised-segmentation literature (IIC, PiCIE, STEGO).

Label maps are the data set's own ``*_gtFine_labelIds.png``: 0 to 6 are void and ignored, 7 to 33 are
the classes.
"""

_base_ = 'mmseg::_base_/datasets/cityscapes.py'
classes = (
    *('road', 'sidewalk', 'parking', 'rail track', 'building', 'wall', 'fence', 'guard rail', 'bridge'),
    *('tunnel', 'pole', 'polegroup', 'traffic light', 'traffic sign', 'vegetation', 'terrain', 'sky'),
    *('person', 'rider', 'car', 'truck', 'bus', 'caravan', 'trailer', 'train', 'motorcycle', 'bicycle'),
)
# Cityscapes' own, but for five of its 27 that nearly have the colour of another class.
palette = [
    *([128, 64, 128], [244, 35, 232], [250, 170, 160], [230, 110, 60], [70, 70, 70], [102, 102, 156]),
    *([190, 153, 153], [90, 60, 120], [150, 100, 100], [150, 120, 90], [153, 153, 153], [210, 210, 210]),
    *([250, 170, 30], [220, 220, 0], [107, 142, 35], [152, 251, 152], [70, 130, 180], [220, 20, 60]),
    *([255, 0, 0], [0, 0, 142], [0, 0, 70], [0, 60, 100], [120, 120, 230], [0, 170, 200], [0, 80, 100]),
    *([0, 0, 230], [119, 11, 32]),
]
label_map = [255] * 7 + list(range(27))
to_coarse = dict(type='MapLabels', label_map=label_map, num_classes=27)
# Data and loaders are mmseg's; the table comes behind the label maps.
train_pipeline = [*_base_.train_pipeline[:2], to_coarse, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:3], to_coarse, *_base_.test_pipeline[3:]]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(3, [to_coarse])
dataset = dict(
    type='BaseSegDataset',
    metainfo=dict(classes=classes, palette=palette),
    img_suffix='_leftImg8bit.png',
    seg_map_suffix='_gtFine_labelIds.png',
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

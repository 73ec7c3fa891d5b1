# SPDX-License-Identifier: Apache-2.0
"""COCO-Stuff 164k in the 27 coarse classes of the unsupervised-segmentation literature (IIC, PiCIE, STEGO).

Label maps are mmseg's (``*_labelTrainIds.png``, 171 labels): 12 groups of things and 15 of stuff, which
are the supercategories of COCO's own annotation files. Pixels without a label (255) are ignored.
"""

_base_ = ['mmseg::_base_/datasets/coco-stuff164k.py', 'coco_stuff27_classes.py']
to_coarse = dict(type='MapLabels', label_map=_base_.label_map, num_classes=27)
# Data and loaders are mmseg's; the table comes behind the label maps.
train_pipeline = [*_base_.train_pipeline[:2], to_coarse, *_base_.train_pipeline[2:]]
test_pipeline = [*_base_.test_pipeline[:3], to_coarse, *_base_.test_pipeline[3:]]
tta_pipeline = _base_.tta_pipeline
tta_pipeline[1].transforms.insert(3, [to_coarse])
dataset = dict(
    type='BaseSegDataset',
    metainfo=dict(classes=_base_.classes, palette=_base_.palette),
    img_suffix='.jpg',
    seg_map_suffix='_labelTrainIds.png',
)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader

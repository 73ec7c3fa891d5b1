# SPDX-License-Identifier: Apache-2.0
"""Linear probe on DINOv2 ViT-S/14 features upsampled by CARAFE, COCO-Stuff in 27 classes, JAFAR's set-up.

Protocol, weights, other upsamplers: _base_/jafar_448.py; classes: ../_base_/coco_stuff27.py. The papers take
the images of a curated list (IIC's Coco164kFull_Stuff_Coarse.txt): dataset.ann_file.
Published: mIoU 59.73 (bilinear 59.03), see ../README.md.
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e_coco-stuff27-448.py
Run here: 20 iterations on 40 images of COCO, random weights; not on COCO-Stuff.
"""

_base_ = ['_base_/jafar_448.py', '../_base_/coco_stuff27_classes.py']
custom_imports = dict(imports=['carafe_plugin.probes', 'carafe_plugin.segmentation'])  # MapLabels
to_coarse = dict(type='MapLabels', label_map=_base_.label_map, num_classes=27)
dataset = dict(
    type='BaseSegDataset',
    data_root='data/coco_stuff164k',
    metainfo=dict(classes=_base_.classes, palette=_base_.palette),
    img_suffix='.jpg',
    seg_map_suffix='_labelTrainIds.png',
)
model = dict(decode_head=dict(num_classes=27))
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/train2017', seg_map_path='annotations/train2017'),
        pipeline=[*_base_.train_pipeline[:2], to_coarse, *_base_.train_pipeline[2:]],
        **dataset,
    )
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/val2017', seg_map_path='annotations/val2017'),
        pipeline=[*_base_.test_pipeline[:2], to_coarse, *_base_.test_pipeline[2:]],
        **dataset,
    )
)
test_dataloader = val_dataloader

# SPDX-License-Identifier: Apache-2.0
"""Linear probe on DINOv2 ViT-S/14 features upsampled by CARAFE, Pascal VOC in 21 classes, JAFAR's set-up.

Protocol, weights, other upsamplers: _base_/jafar_448.py. The 1,464 training images, not the 10,582 of aug.
Published: mIoU 80.26 (bilinear 80.70), see ../README.md.
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e_voc-448.py
Run here: 20 iterations on four images, random weights; not on VOC.
"""

_base_ = '_base_/jafar_448.py'
dataset = dict(
    type='PascalVOCDataset',
    data_root='data/VOCdevkit/VOC2012',
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
)
model = dict(decode_head=dict(num_classes=21))
train_dataloader = dict(dataset=dict(ann_file='ImageSets/Segmentation/train.txt', **dataset))
val_dataloader = dict(dataset=dict(ann_file='ImageSets/Segmentation/val.txt', **dataset))
test_dataloader = val_dataloader

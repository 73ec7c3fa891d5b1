# SPDX-License-Identifier: Apache-2.0
"""Linear probe on DINOv2 ViT-S/14 features upsampled by CARAFE, Cityscapes in 19 classes, JAFAR's set-up.

Protocol, weights, other upsamplers: _base_/jafar_448.py. The square in the middle is half of an image.
Published: mIoU 56.05 (bilinear 59.37), listed as 27 classes by mistake, see ../README.md.
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e_cityscapes-448.py
Run here: built; there is no Cityscapes image at hand.
"""

_base_ = '_base_/jafar_448.py'
dataset = dict(type='CityscapesDataset', data_root='data/cityscapes')
model = dict(decode_head=dict(num_classes=19))
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'), **dataset)
)
val_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'), **dataset)
)
test_dataloader = val_dataloader

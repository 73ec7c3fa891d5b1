# SPDX-License-Identifier: Apache-2.0
"""Linear probe on DINOv2 ViT-S/14 features upsampled by CARAFE, ADE20K in 151 classes, JAFAR's set-up.

Protocol, weights, other upsamplers: _base_/jafar_448.py. Label 0 is a class, trained and scored.
Published: mIoU 38.30 (bilinear 39.23), see ../README.md.
Train: python tools/train.py configs/probes/linear_vit-s14_carafe_20e_ade20k151-448.py
Run here: 20 iterations on 20 images, random weights; not on ADE20K.
"""

_base_ = '_base_/jafar_448.py'
dataset = dict(type='ADE20K151', data_root='data/ade/ADEChallengeData2016')
model = dict(decode_head=dict(num_classes=151))
train_dataloader = dict(
    dataset=dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), **dataset)
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), **dataset
    )
)
test_dataloader = val_dataloader

# SPDX-License-Identifier: Apache-2.0
"""Depth probe on ViT-S/16 features upsampled by CARAFE, FeatUp's set-up, pseudo-depth on COCO.

Known: pseudo-depth of MiDaS; one number per pixel, right up to scale and shift; the schedule of the
segmentation probe. RMSE and shares after alignment are this project's reading: the released code has neither.
Published: RMSE 1.09, share below 1.25 0.920 (bilinear 1.19, 0.910), see ../README.md.
Train: python tools/train.py configs/probes/depth_vit-s16_carafe_200e_coco-224.py
Run here: 20 iterations on 40 images of COCO with made-up depth, random weights; not with a depth network's.
"""

_base_ = ['_base_/featup_224.py', '_base_/coco_depth.py']
model = dict(
    type='ProbeDepthEstimator',
    decode_head=dict(_delete_=True, type='ProbeDepthHead', in_channels=384),
)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *_base_.train_pipeline[2:]], **_base_.train))
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *_base_.test_pipeline[2:]], **_base_.val))
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='AlignedDepthMetric')
test_evaluator = val_evaluator

# SPDX-License-Identifier: Apache-2.0
"""Depth probe of 256 bins on DINOv2 ViT-S/14 features upsampled by CARAFE, pseudo-depth on COCO, as JAFAR.

Known: pseudo-depth of Depth-Anything-V2-Small; features and class token, 256 bins, SigLoss; 5e-3, 5 epochs,
batch 2; d1 to silog between 0.001 and 10. Assumed: optimiser and schedule of the segmentation probe.
Published: no CARAFE row found; bilinear d1 59.92, RMSE 0.66, see ../README.md.
Train: python tools/train.py configs/probes/depth-bins_vit-s14_carafe_5e_coco-448.py
Run here: 20 iterations on 40 images of COCO with made-up depth, random weights; not with a depth network's.
"""

_base_ = ['_base_/jafar_448.py', '_base_/coco_depth.py']
model = dict(
    type='ProbeDepthEstimator',
    backbone=dict(output_cls_token=True),
    decode_head=dict(_delete_=True, type='ProbeDepthBinsHead', in_channels=384),
)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *_base_.train_pipeline[2:]], **_base_.train))
val_dataloader = dict(dataset=dict(pipeline=[*_base_.load, *_base_.test_pipeline[2:]], **_base_.val))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=5, val_interval=1)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
val_evaluator = dict(_delete_=True, type='DepthMetric', min_depth_eval=1e-3, max_depth_eval=10)
test_evaluator = val_evaluator

# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN R101 1x with CARAFE in the published 4-stage FPN (P6 lateral, fourth upsampler).

Published for this topology (val2017): nearest 39.4 box AP; none was found for CARAFE.
Train: bash tools/dist_train.sh configs/coco/faster-rcnn_r101_fpncarafe-carafe_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = './faster-rcnn_r50_fpncarafe-carafe_1x_coco.py'
model = dict(
    backbone=dict(depth=101, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')),
)

# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN R50 1x with CARAFE in the published 4-stage FPN (P6 lateral, fourth upsampler).

Published (val2017): 38.6 box AP, in mmdet's model zoo and in SAPA's and DySample's tables, where nearest
interpolation in this topology gives 37.4 or 37.5. Images are padded to multiples of 64.
Train: bash tools/dist_train.sh configs/coco/faster-rcnn_r50_fpncarafe-carafe_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = './faster-rcnn_r50_fpn-carafe_1x_coco.py'
model = dict(data_preprocessor=dict(pad_size_divisor=64), neck=dict(type='UpsampleFPNCARAFE'))

# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50 1x with CARAFE in the published 4-stage FPN (P6 lateral, fourth upsampler).

Published (FreqFusion's table, val2017): 39.2 box AP, 35.4 mask AP; nearest interpolation 38.3 and 34.7. The
mask head is the stock one. Images are padded to multiples of 64.
Train: bash tools/dist_train.sh configs/coco/mask-rcnn_r50_fpncarafe-carafe_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = './mask-rcnn_r50_fpn-carafe_1x_coco.py'
model = dict(data_preprocessor=dict(pad_size_divisor=64), neck=dict(type='UpsampleFPNCARAFE'))

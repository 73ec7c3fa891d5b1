# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN R50-FPN 1x, ablation of CARAFE: encoder kernel 1, reassembly kernel 3 in place of 3 and 5.

Published (ICCV 2019, table 9, val2017): 37.3 box AP; the default gives 37.8.
Train: bash tools/dist_train.sh configs/coco/ablations/faster-rcnn_r50_fpn-carafe-kenc1-kup3_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = '../faster-rcnn_r50_fpn-carafe_1x_coco.py'
model = dict(neck=dict(upsample_cfg=dict(encoder_kernel=1, up_kernel=3)))

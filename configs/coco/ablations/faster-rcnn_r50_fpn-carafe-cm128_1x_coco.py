# SPDX-License-Identifier: Apache-2.0
"""Faster R-CNN R50-FPN 1x, ablation of CARAFE: 128 compressed channels in place of 64.

Published (ICCV 2019, table 8, val2017): 37.6 to 37.8 box AP over 16 to 256 channels; the default gives 37.8.
Train: bash tools/dist_train.sh configs/coco/ablations/faster-rcnn_r50_fpn-carafe-cm128_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = '../faster-rcnn_r50_fpn-carafe_1x_coco.py'
model = dict(neck=dict(upsample_cfg=dict(compressed_channels=128)))

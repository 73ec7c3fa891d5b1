# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50-FPN 1x with CARAFE in the FPN (3 stages, stock topology) and in the mask head.

Published (ICCV 2019, val2017): box AP 37.4 -> 38.6, mask AP 34.2 -> 35.7.
Train: bash tools/dist_train.sh configs/coco/mask-rcnn_r50_fpn-carafe_head-carafe_1x_coco.py 8
Run here: built and compared with mmdet's config; trained for one epoch on a 50-image sample of COCO
(docs/coco.md), not on COCO itself.
"""

_base_ = './mask-rcnn_r50_fpn-carafe_1x_coco.py'
model = dict(roi_head=dict(mask_head=dict(type='UpsampleFCNMaskHead', upsample_cfg=dict(type='carafe'))))

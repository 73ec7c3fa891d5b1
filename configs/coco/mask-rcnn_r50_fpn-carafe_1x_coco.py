# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50-FPN 1x with CARAFE in the top-down path of the FPN (3 stages, stock topology).

Published (ICCV 2019, val2017): box AP 37.4 -> 38.6, mask AP 34.2 -> 35.2.
Train: bash tools/dist_train.sh configs/coco/mask-rcnn_r50_fpn-carafe_1x_coco.py 8
Run here: built and compared with mmdet's config; not trained on COCO.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(neck=dict(type='UpsampleFPN', upsample_cfg=dict(type='carafe')))

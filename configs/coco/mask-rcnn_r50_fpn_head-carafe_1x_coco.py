# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN R50-FPN 1x with CARAFE in the mask head, in place of its deconvolution.

Published (ICCV 2019, val2017): box AP 37.4 -> 37.3, mask AP 34.2 -> 34.7.
Train: bash tools/dist_train.sh configs/coco/mask-rcnn_r50_fpn_head-carafe_1x_coco.py 8
Run here: built and compared with mmdet's config; not trained on COCO.
"""

_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(roi_head=dict(mask_head=dict(type='UpsampleFCNMaskHead', upsample_cfg=dict(type='carafe'))))

# SPDX-License-Identifier: Apache-2.0
"""Panoptic FPN R50 1x with CARAFE in the top-down path of the FPN (3 stages); head as in the stock.

Published (FreqFusion's table, val2017): PQ 40.2 -> 40.8.
Train: bash tools/dist_train.sh configs/coco/panoptic-fpn_r50_fpn-carafe_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(neck=dict(type='UpsampleFPN', upsample_cfg=dict(type='carafe')))

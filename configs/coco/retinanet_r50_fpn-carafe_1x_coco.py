# SPDX-License-Identifier: Apache-2.0
"""RetinaNet R50 1x with CARAFE in the top-down path of the FPN (2 stages: P5 to P3).

Published: none was found; mmdet's own 1x baseline stands at 36.5 box AP.
Train: bash tools/dist_train.sh configs/coco/retinanet_r50_fpn-carafe_1x_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(neck=dict(type='UpsampleFPN', upsample_cfg=dict(type='carafe')))

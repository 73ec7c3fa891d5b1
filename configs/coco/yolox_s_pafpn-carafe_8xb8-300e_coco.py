# SPDX-License-Identifier: Apache-2.0
"""YOLOX-s with CARAFE in the top-down path of its PAFPN (2 stages).

Published: none was found; mmdet's own baseline stands at 40.5 box AP.
Train: bash tools/dist_train.sh configs/coco/yolox_s_pafpn-carafe_8xb8-300e_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = 'mmdet::yolox/yolox_s_8xb8-300e_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
# mmdet's config has arguments of nn.Upsample in this field.
model = dict(neck=dict(type='UpsampleYOLOXPAFPN', upsample_cfg=dict(_delete_=True, type='carafe')))

# SPDX-License-Identifier: Apache-2.0
"""RTMDet-s with CARAFE in the top-down path of its CSPNeXt PAFPN (2 stages).

Published: none was found; mmdet's own baseline stands at 44.5 box AP.
Train: bash tools/dist_train.sh configs/coco/rtmdet_s_pafpn-carafe_8xb32-300e_coco.py 8
Run here: built; not trained on COCO.
"""

_base_ = 'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py'
custom_imports = dict(imports=['carafe_plugin.detection'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(neck=dict(type='UpsampleCSPNeXtPAFPN', upsample_cfg=dict(type='carafe')))

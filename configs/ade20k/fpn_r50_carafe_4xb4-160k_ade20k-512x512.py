# SPDX-License-Identifier: Apache-2.0
"""Semantic FPN R50 with CARAFE in neck and head, in mmseg's 160k recipe.

Published: nothing known.
Train: bash tools/dist_train.sh configs/ade20k/fpn_r50_carafe_4xb4-160k_ade20k-512x512.py 4
Run here: built and compared with mmseg's config; not trained on ADE20K.
"""

_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    neck=dict(type='UpsampleFPN', upsample_cfg=dict(type='carafe')),
    decode_head=dict(type='UpsampleFPNHead', upsample_cfg=dict(type='carafe')),
)

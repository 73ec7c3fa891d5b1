# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in ppm, fpn and fusion on Cityscapes, in mmseg's 80k recipe.

Published: nothing known.
Train: bash tools/dist_train.sh configs/cityscapes/upernet_r50_carafe_4xb2-80k_cityscapes-512x1024.py 4
Run here: built and compared with mmseg's config; not trained on Cityscapes.
"""

_base_ = 'mmseg::upernet/upernet_r50_4xb2-80k_cityscapes-512x1024.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    decode_head=dict(
        type='UpsampleUPerHead',
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    )
)

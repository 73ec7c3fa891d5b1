# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in ppm, fpn and fusion on Pascal VOC 2012 + aug, in mmseg's 40k recipe.

Published: nothing known.
Train: bash tools/dist_train.sh configs/voc/upernet_r50_carafe_4xb4-40k_voc12aug-512x512.py 4
Run here: built and compared with mmseg's config; not trained on VOC.
"""

_base_ = 'mmseg::upernet/upernet_r50_4xb4-40k_voc12aug-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    decode_head=dict(
        type='UpsampleUPerHead',
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    )
)

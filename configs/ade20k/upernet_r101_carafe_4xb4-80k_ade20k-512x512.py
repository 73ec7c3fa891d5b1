# SPDX-License-Identifier: Apache-2.0
"""UperNet R101 with CARAFE in ppm, fpn and fusion, in mmseg's 80k recipe at 512 x 512.

Published: nothing known in this recipe.
Train: bash tools/dist_train.sh configs/ade20k/upernet_r101_carafe_4xb4-80k_ade20k-512x512.py 4
Run here: built and compared with mmseg's config; not trained on ADE20K.
"""

_base_ = 'mmseg::upernet/upernet_r101_4xb4-80k_ade20k-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    decode_head=dict(
        type='UpsampleUPerHead',
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    )
)

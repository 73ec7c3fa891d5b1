# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in ppm, fpn and fusion on Cityscapes in 27 classes, 80k iterations.

Classes and labels: ../_base_/cityscapes27.py.
Published: nothing known; the protocol is used without supervision, or with a linear probe.
Train: bash tools/dist_train.sh configs/cityscapes/upernet_r50_carafe_4xb2-80k_cityscapes27-512x1024.py 4
Run here: built; not trained on Cityscapes.
"""

_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/cityscapes27.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_80k.py',
]
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    data_preprocessor=dict(size=(512, 1024)),
    decode_head=dict(
        type='UpsampleUPerHead',
        num_classes=27,
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    ),
    auxiliary_head=dict(num_classes=27),
)

# SPDX-License-Identifier: Apache-2.0
"""UperNet R50 with CARAFE in ppm, fpn and fusion on COCO-Stuff 164k, 80k iterations.

mmseg has no UperNet on this data set: data and schedule are those of its PSPNet.
Published: nothing known.
Train: bash tools/dist_train.sh configs/coco_stuff/upernet_r50_carafe_4xb4-80k_coco-stuff164k-512x512.py 4
Run here: built; not trained on COCO-Stuff.
"""

_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    'mmseg::_base_/datasets/coco-stuff164k.py',
    'mmseg::_base_/default_runtime.py',
    'mmseg::_base_/schedules/schedule_80k.py',
]
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(
        type='UpsampleUPerHead',
        num_classes=171,
        upsample_cfg=dict(ppm=dict(type='carafe'), fpn=dict(type='carafe'), fusion=dict(type='carafe')),
    ),
    auxiliary_head=dict(num_classes=171),
)

# SPDX-License-Identifier: Apache-2.0
"""A small Mask R-CNN (half-width ResNet-18) with CARAFE in FPN and mask head, trained from scratch on shapes.

The demonstration behind `make demo`, sized for two CPU cores. By itself:

    python tools/make_shapes.py data/shapes
    python tools/train.py configs/quickstart/mask-rcnn_r18_fpn-carafe_head-carafe_shapes.py

Result, time and machine: docs/quickstart.md.
"""

_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
custom_imports = dict(imports=['carafe_plugin.detection'])

# Model
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    backbone=dict(
        depth=18,
        base_channels=32,
        frozen_stages=-1,
        norm_cfg=norm_cfg,
        norm_eval=False,
        init_cfg=None,
        zero_init_residual=False,
        style='pytorch',
    ),
    neck=dict(
        type='UpsampleFPN',
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        num_outs=4,
        norm_cfg=norm_cfg,
        upsample_cfg=dict(type='carafe'),
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(scales=[5], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        # Boxes from finer maps than their size calls for, masks from finer ones still: outlines count here.
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=64, featmap_strides=[4, 8, 16, 32], finest_scale=56
        ),
        bbox_head=dict(
            type='ConvFCBBoxHead',
            num_shared_convs=2,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            num_classes=6,
            reg_class_agnostic=True,
            norm_cfg=dict(type='GN', num_groups=8),
        ),
        mask_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1),
            out_channels=64,
            featmap_strides=[4, 8, 16, 32],
            finest_scale=112,
        ),
        mask_head=dict(
            type='UpsampleFCNMaskHead',
            num_convs=4,
            class_agnostic=True,
            in_channels=64,
            conv_out_channels=64,
            num_classes=6,
            norm_cfg=norm_cfg,
            upsample_cfg=dict(type='carafe'),
            loss_mask=dict(loss_weight=2.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=200, max_per_img=200),
        rcnn=dict(sampler=dict(num=36, pos_fraction=0.33)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=50)),
)

# Data
data_root = 'data/shapes/'
dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    metainfo=dict(
        classes=('star', 'gear', 'ring', 'cross', 'letter', 'crescent'),
        palette=[(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0)],
    ),
)
resize = dict(type='Resize', scale=(192, 192), keep_ratio=True)
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type='InfiniteSampler'),
    dataset=dict(
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            resize,
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
        **dataset,
    ),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=[
            dict(type='LoadImageFromFile'),
            resize,
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            dict(
                type='PackDetInputs',
                meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
            ),
        ],
        **dataset,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric',
    ann_file=data_root + 'annotations/instances_val.json',
    metric=['bbox', 'segm'],
    format_only=False,
)
test_evaluator = val_evaluator

# Schedule
max_iters = 2400
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 3)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=7e-4, weight_decay=0.05), clip_grad=dict(max_norm=10)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=200, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(
    check_data=dict(type='CheckDataHook'),
    finite_loss=dict(type='FiniteLossHook'),
    logger=dict(interval=40, log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False, interval=max_iters // 3, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)

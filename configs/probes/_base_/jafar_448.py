# SPDX-License-Identifier: Apache-2.0
"""JAFAR's segmentation probe (arXiv 2506.11136, code at 94d4d54): DINOv2 ViT-S/14, 448 pixels, 20 epochs.

Known: short side to 448 and the square in the middle, flips half of the time; patches of 14, so 32 x 32
features; a 1x1 convolution on upsampled features, logits brought to 448 where they are larger; cross-entropy;
AdamW 5e-4, weight decay 1e-5, batch 2; a cosine of 20 steps that is stepped after every iteration, so that
the learning rate swings with a period of 40 iterations. AnyUp steps it after every epoch, NAF spreads it over
the run (linear_vit-s14_carafe_20e-anyup_*, ..._20e-naf_*).
Assumed: the code has no CARAFE, SAPA, DySample or ReSFU; here they are four steps of 2, with this project's
defaults, and learn with the probe. Position embeddings by timm's rule, as the code's backbone is timm's.

Weights: python tools/convert_vit.py dinov2_vits14_pretrain.pth --out data/vit/dinov2_vits14.pth
Another upsampler: --cfg-options model.neck.upsample_cfg.type=bilinear
Features read from disk after the first epoch, at the price of the flips:
--cfg-options model.cache=work_dirs/features/NAME train_dataloader.dataset.pipeline.3.prob=0
"""

_base_ = 'runtime.py'
size = (448, 448)
model = dict(
    type='ProbeSegmentor',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=size,
    ),
    backbone=dict(
        type='FrozenViT',
        weights='data/vit/dinov2_vits14.pth',
        position_rule='antialias',
        img_size=518,
        patch_size=14,
        embed_dims=384,
        num_layers=12,
        num_heads=6,
    ),
    neck=dict(
        type='UpsampleStack', in_channels=384, upsample_cfg=dict(type='carafe'), scale_factors=(2, 2, 2, 2)
    ),
    decode_head=dict(type='ProbeHead', in_channels=384, num_classes=None),
    cache=None,
    test_cfg=dict(mode='whole'),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='ResizeCenterCrop', size=448),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='ResizeCenterCrop', size=448),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(pipeline=test_pipeline),
)
test_dataloader = val_dataloader
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=20, val_interval=5)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=1e-5)
)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=20, by_epoch=False)]

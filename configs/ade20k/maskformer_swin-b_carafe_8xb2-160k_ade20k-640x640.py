# SPDX-License-Identifier: Apache-2.0
"""MaskFormer Swin-B with CARAFE in the pixel decoder, 160k iterations at 640 x 640.

mmseg ends at Swin-S: backbone (window 12, ImageNet-22k, 384) and crop are those of its Mask2Former Swin-B,
the rest is its MaskFormer Swin-T.
Published (SAPA, val): 52.70 -> 53.53 mIoU.
Train: bash tools/dist_train.sh configs/ade20k/maskformer_swin-b_carafe_8xb2-160k_ade20k-640x640.py 8
Run here: built; not trained on ADE20K.
"""

_base_ = 'mmseg::maskformer/maskformer_swin-t_upernet_8xb2-160k_ade20k-512x512.py'
custom_imports = dict(imports=['carafe_plugin.segmentation'])
default_hooks = dict(check_data=dict(type='CheckDataHook'), finite_loss=dict(type='FiniteLossHook'))
checkpoint_file = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth'
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        pretrain_img_size=384,
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        init_cfg=dict(checkpoint=checkpoint_file),
    ),
    decode_head=dict(
        type='UpsampleMaskFormerHead',
        in_channels=[128, 256, 512, 1024],
        pixel_decoder=dict(type='mmdet.UpsamplePixelDecoder', upsample_cfg=dict(type='carafe')),
    ),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='RandomResize', scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# The base lists the norms of Swin-T's six blocks; here the third stage has eighteen.
no_decay = {f'backbone.stages.2.blocks.{i}.norm': dict(lr_mult=1.0, decay_mult=0.0) for i in range(6, 18)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=no_decay))

# SPDX-License-Identifier: Apache-2.0
"""FeatUp's segmentation probe (ICLR 2024, code at 6b5a6c0): ViT-S/16, 224 pixels, 200 epochs, 27 classes.

Known: short side to 224 and the square in the middle; tokens behind the final norm, normalised once more;
four separate CARAFE of kernel 3, 14 x 14 features to 224 x 224; a 1x1 convolution on stored features, labels
at their size; Adam 5e-3 without schedule, batch 2, evaluation every 10 epochs.
Assumed: the upsampler was trained without labels before (label-free_vit-s16_*) and is frozen here; the
paper's backbone is the code's default, a supervised ViT-S/16 in DINO's layout, or DINO's.

Weights: python tools/convert_vit.py dino_deitsmall16_pretrain.pth --out data/vit/dino_vits16.pth
Upsampler: --cfg-options load_from=work_dirs/label-free_vit-s16_carafe_1e_coco-stuff-224/epoch_1.pth
"""

_base_ = 'jafar_448.py'
size = (224, 224)
model = dict(
    data_preprocessor=dict(size=size),
    backbone=dict(
        weights='data/vit/dino_vits16.pth',
        position_rule='offset',
        channel_norm=True,
        img_size=224,
        patch_size=16,
    ),
    neck=dict(upsample_cfg=dict(type='carafe', up_kernel=3), to_image=True),
    decode_head=dict(at_features=True),
    frozen_neck=True,
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='ResizeCenterCrop', size=224),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_pipeline = train_pipeline
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=200, val_interval=10)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr=5e-3))
param_scheduler = None

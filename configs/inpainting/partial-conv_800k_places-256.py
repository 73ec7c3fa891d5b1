# SPDX-License-Identifier: Apache-2.0
"""Partial-convolution U-Net on Places, first stage, stock upsampling (nearest).

Published (CARAFE, ICCV 2019, Places val): L1 5.96 %, PSNR 20.78 dB; its generator is said to have
the layers of Global&Local with partial convolutions; this U-Net is that of Liu et al.
From Liu et al.: the network, weights of the losses (6 hole, 1 valid, 0.05 perceptual, 120 style, 0.1 total
variation), learning rate 2e-4. Taken as the CARAFE
paper's, but not checked against its text: 256 x 256, betas 0.5 and 0.9, batch 32.
Assumed: 800,000 iterations, free-form holes of 15 to 65 % (the same laboratory's later recipe), Adam.
The losses need VGG16's weights: `--cfg-options model.perceptual.weights=PATH`, or torchvision;
docs/inpainting.md.
Train: bash tools/dist_train.sh configs/inpainting/partial-conv_800k_places-256.py 4
Run here: built, and trained for a few iterations on other images; not on Places.
"""

_base_ = ['_base_/runtime.py', '_base_/places_256.py']
model = dict(
    type='Inpainter',
    generator=dict(type='PartialConvUNet'),
    weights=dict(hole=6.0, valid=1.0, total_variation=0.1),
    perceptual=dict(type='VGGLoss', perceptual=0.05, style=120.0, weights='torchvision'),
)
hole = dict(type='RandomHole', kind='strokes', area=(0.15, 0.65))
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=256, crop=384),
            dict(type='RandomFlip', prob=0.5),
            hole,
            dict(type='PackInpainting'),
        ]
    )
)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=256, random=False),
            hole,
            dict(type='PackInpainting'),
        ]
    )
)
test_dataloader = val_dataloader
train_cfg = dict(type='IterBasedTrainLoop', max_iters=800_000, val_interval=50_000)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-4, betas=(0.5, 0.9)))

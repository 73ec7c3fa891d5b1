# SPDX-License-Identifier: Apache-2.0
"""Places365 at 256 x 256: 8 million training images, 36,500 for validation. Layout: docs/inpainting.md.

Taken as the paper's, but not checked against its text: 256 x 256, pixels in [-1, 1], masks of up to
128 x 128, batch 32. Assumed: the 384-pixel crop (that of the same laboratory's later recipe), 4 GPUs of 8
images, the middle of each validation image with holes that are drawn once and for all.
"""

data_root = 'data/places365/'
hole = dict(type='RandomHole', kind='box', side=128, shrink=40, margin=20)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='NumberedSampler'),
    dataset=dict(
        type='InpaintingDataset',
        data_root=data_root + 'data_large',
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=256, crop=384),
            dict(type='RandomFlip', prob=0.5),
            hole,
            dict(type='PackInpainting'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='InpaintingDataset',
        data_root=data_root + 'val_large',
        test_mode=True,
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=256, random=False),
            hole,
            dict(type='PackInpainting'),
        ],
    ),
)
test_dataloader = val_dataloader

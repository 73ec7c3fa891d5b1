# SPDX-License-Identifier: Apache-2.0
"""The quick-start data at 64 x 64, as tools/quickstart_inpaint.py makes it; sized for two CPU cores."""

_base_ = 'runtime.py'
data_root = 'data/inpaint/'
hole = dict(type='RandomHole', kind='strokes', area=(0.15, 0.35), length=(40, 120), brush=(25, 60))
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='NumberedSampler'),
    dataset=dict(
        type='InpaintingDataset',
        data_root=data_root + 'train',
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=64, crop=64),
            dict(type='RandomFlip', prob=0.5),
            hole,
            dict(type='PackInpainting'),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='InpaintingDataset',
        data_root=data_root + 'val',
        test_mode=True,
        pipeline=[
            dict(type='ReadImage'),
            dict(type='CropResize', size=64, crop=64, random=False),
            hole,
            dict(type='PackInpainting'),
        ],
    ),
)
test_dataloader = val_dataloader
max_iters = 800
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 4)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=20, end=max_iters, eta_min=1e-5),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=max_iters // 4, max_keep_ckpts=1, save_best=None),
)
env_cfg = dict(cudnn_benchmark=False)

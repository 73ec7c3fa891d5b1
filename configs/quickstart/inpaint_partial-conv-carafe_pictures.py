# SPDX-License-Identifier: Apache-2.0
"""A small partial-convolution U-Net with CARAFE on generated textures and photographs, without VGG16 losses.

    python tools/quickstart_inpaint.py --data-only
    python tools/train.py configs/quickstart/inpaint_partial-conv-carafe_pictures.py

The stock decoder: `--cfg-options model.generator.upsample_cfg=None`. Results: docs/inpainting.md.
"""

_base_ = '../inpainting/_base_/pictures_64.py'
model = dict(
    type='Inpainter',
    generator=dict(type='PartialConvUNet', base_channels=24, num_stages=5, upsample_cfg=dict(type='carafe')),
    weights=dict(hole=6.0, valid=1.0, total_variation=0.1),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=2e-3, betas=(0.5, 0.9)))

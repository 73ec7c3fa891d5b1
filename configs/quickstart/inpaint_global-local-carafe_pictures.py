# SPDX-License-Identifier: Apache-2.0
"""A small Global&Local with CARAFE and a PatchGAN discriminator on generated textures and photographs.

The demonstration behind `make demo-inpaint`, sized for two CPU cores. By itself:

    python tools/quickstart_inpaint.py --data-only
    python tools/train.py configs/quickstart/inpaint_global-local-carafe_pictures.py

The stock decoder: `--cfg-options model.generator.upsample_cfg=None`. Results: docs/inpainting.md.
"""

_base_ = '../inpainting/_base_/pictures_64.py'
model = dict(
    type='Inpainter',
    # ELU and no norms, unlike the Places configs: it learns much faster in the first few hundred iterations.
    generator=dict(
        type='GlobalLocalGenerator',
        base_channels=24,
        norm_cfg=None,
        act_cfg=dict(type='ELU'),
        upsample_cfg=dict(type='carafe'),
    ),
    discriminator=dict(type='PatchDiscriminator', base_channels=16, num_layers=4),
    gan='hinge',
    weights=dict(hole=1.0, valid=1.0, adversarial=0.001),
)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='GeneratorDiscriminatorConstructor',
    generator=dict(optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.99))),
    discriminator=dict(optimizer=dict(type='Adam', lr=5e-4, betas=(0.5, 0.9))),
)
model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')
# Validation, test and demo use averaged weights: those of a single iteration go up and down.
custom_hooks = [dict(type='EMAHook', momentum=0.05)]
